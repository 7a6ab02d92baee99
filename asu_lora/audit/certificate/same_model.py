"""Whether an audit is one of this store, and of the very model and rows that are to be certified."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asu_lora.adapters.manifest import CONFIG_NAME, WEIGHTS_NAME
from asu_lora.adapters.request_key import read_key
from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.certificate.identity import REPORT_NAME, Audited, hashes_of
from asu_lora.audit.certificate.marks import is_marked, rows_hash
from asu_lora.audit.certificate.record import CERTIFICATE_NAME, Done
from asu_lora.audit.certificate.signed import read_signed
from asu_lora.audit.results import AUDIT_NAME, Attacked, AuditResult
from asu_lora.data.examples import Example
from asu_lora.errors import CertificateError
from asu_lora.files import read_json, sha256_file
from asu_lora.merging.merge_record import RECORD_NAME, read_record


@dataclass(frozen=True)
class ReadAudit:
    """An audit out of a folder.

    Attributes:
        told: what its file says, as the version that wrote it did.
    """

    folder: Path
    result: AuditResult
    told: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{AUDIT_NAME} of {self.folder.name}"


def refuse_another(
    store: AdapterStore, read: ReadAudit, audited: Audited, done: Done, forget: Sequence[Example], public_key: str
) -> None:
    """Refuse to certify anything but what was attacked.

    Args:
        done: hashes of ``audited``, as they go into the certificate.
        forget: rows to commit to, if any.
        public_key: of the key that is to sign. What it signed already, of this audit and this model, it may sign again.

    Raises:
        CertificateError: the audit is not this store's, or of another model or other rows; with the way out.
    """
    secret, was, before = read_key(store.root), read.result.attacked, _certified(read, done, public_key)
    if not before and not is_marked(read.told, secret):
        if was is None:
            raise CertificateError(
                f"{read.name} is of an earlier version, which didn't say what was attacked: run 'asu-lora audit' anew."
            )
        raise CertificateError(
            f"{read.name} was not written by an audit with the store {store.root}, or was changed since: run "
            f"'asu-lora audit' anew with --store {store.root}."
        )
    if was is not None:
        _refuse_other_model(read, was, audited, done)
    if forget and (was is None or secret is None or was.request != rows_hash(forget, secret)):
        count = f" It attacked {was.rows} rows, and these are {len(forget)}." if was else ""
        raise CertificateError(
            f"{read.name} is not of the rows of --forget: give those that were audited, or run 'asu-lora audit' anew."
            f"{count}"
        )


def _certified(read: ReadAudit, done: Done, public_key: str) -> bool:
    """Whether the certificate that lies there is of this audit and this model, and signed with the same key."""
    with suppress(CertificateError):
        before = read_signed(read.folder / CERTIFICATE_NAME)
        was = before.certificate
        same = was.tried == read.result and was.done.subject() == done.subject()
        return same and before.public_key == public_key
    return False


def _refuse_other_model(read: ReadAudit, was: Attacked, audited: Audited, done: Done) -> None:
    if was.merged != done.merged:
        raise CertificateError(
            f"The files in {read.folder} are not those that were attacked: run 'asu-lora audit --merged' anew."
        )
    if done.merged is not None:
        _refuse_other_parts(read.folder, audited)
        return
    if len(was.adapters) != len(audited.adapters):
        raise CertificateError(f"{read.name} is of another number of adapters: run 'asu-lora audit' anew.")
    for (adapter, _), now, files in zip(audited.adapters, done.adapters, was.adapters, strict=True):
        as_it_lies = hashes_of(adapter.path, [CONFIG_NAME])  # certified as it leaves the store
        if now.files | as_it_lies != files:
            raise CertificateError(
                f"The adapter {adapter.name} is not the one that was attacked, its files are others: run 'asu-lora "
                "audit' anew."
            )


def _refuse_other_parts(merged: Path, audited: Audited) -> None:
    """Hold what was baked in against the merge's own record and report, where they lie beside the weights."""
    _refuse_other_weights(merged, audited)
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = [(str(part["name"]), float(part["weight"])) for part in read_json(merged / REPORT_NAME)["adapters"]]
        given = [(adapter.name, weight) for adapter, weight in audited.adapters]
        alike = sorted(name for name, _ in told) == sorted(name for name, _ in given)
        if not alike or any(not math.isclose(one, dict(given)[name], rel_tol=1e-6) for name, one in told):
            raise CertificateError(
                f"{REPORT_NAME} in {merged} tells that {' + '.join(f'{name}:{weight:g}' for name, weight in told)} was "
                "merged: name these."
            )


def _refuse_other_weights(merged: Path, audited: Audited) -> None:
    """Hold the adapters' weights against the hashes that ``merge`` wrote; a version before wrote none."""
    told = read_record(merged)
    if told is None:
        return
    given = [(sha256_file(adapter.path / WEIGHTS_NAME), weight) for adapter, weight in audited.adapters]
    alike = len(told) == len(given) and all(
        there == here and math.isclose(one, other, rel_tol=1e-6)
        for (there, one), (here, other) in zip(sorted(told), sorted(given), strict=True)
    )
    if not alike:
        weights = ", ".join(f"{weight:g}" for _, weight in told)
        raise CertificateError(
            f"{RECORD_NAME} in {merged} tells of other adapters: {len(told)} of weight {weights} were merged into it. "
            "Name these, NAME:WEIGHT each, as they were then."
        )
