"""Certifying an audit that lies in the store, as a later step of its own."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from asu_lora.adapters.store import AdapterStore
from asu_lora.adapters.stored_adapter import StoredAdapter
from asu_lora.audit.certificate.identity import Audited, done
from asu_lora.audit.certificate.issue import Issued, Terms, issue
from asu_lora.audit.certificate.same_model import ReadAudit, refuse_another
from asu_lora.audit.certificate.signing_key import key_of_store
from asu_lora.audit.on_file import at_another_weight
from asu_lora.audit.results import AUDIT_NAME, SCHEMA_VERSION, AuditResult
from asu_lora.data.examples import Example
from asu_lora.errors import CertificateError
from asu_lora.files import read_json


def certify_stored(
    store: AdapterStore, name: str, forget: Sequence[Example] = (), terms: Terms | None = None
) -> Issued:
    """Certify the audit in an adapter's folder.

    Raises:
        CertificateError: there is no audit, it is of other adapters, of one that is gone or broken, or see
            :func:`~.issue.issue`.
        StoreError: there is no such adapter, or the disk refuses.
    """
    adapter = _whole(store.get(name))
    read = read_with_text(adapter.path)
    result = read.result
    if result.audited not in ("adapter", "stack") or result.names[-1:] != [name]:
        raise CertificateError(
            f"{AUDIT_NAME} of {name} is an audit of {' + '.join(result.names) or result.audited}: run "
            f"'asu-lora audit {name}' anew."
        )
    if reason := at_another_weight(result):
        raise CertificateError(f"{reason}: run 'asu-lora audit {name}' anew.")
    *beneath, (_, weight) = result.stacked()
    below = [(_still_there(store, other, name), share) for other, share in beneath]
    return _issue(store, Audited([*below, (adapter, weight)]), read, forget, terms)


def certify_merged(
    store: AdapterStore,
    merged: Path,
    adapters: Sequence[tuple[str, float]],
    forget: Sequence[Example] = (),
    terms: Terms | None = None,
) -> Issued:
    """Certify the audit in a merged folder; ``adapters`` are (name, weight) of what was baked into it, in order.

    Raises:
        CertificateError: there is no audit in it, it is of something else, or an adapter is broken; or see
            :func:`~.issue.issue`.
        StoreError: there is no such adapter, or the disk refuses.
    """
    read = read_with_text(merged)
    if read.result.audited != "merged":
        raise CertificateError(f"{AUDIT_NAME} in {merged} is no audit of a merged folder: run 'asu-lora audit' anew.")
    baked = [(_whole(store.get(name)), weight) for name, weight in adapters]
    return _issue(store, Audited(baked, merged), read, forget, terms)


def _issue(
    store: AdapterStore, audited: Audited, read: ReadAudit, forget: Sequence[Example], terms: Terms | None
) -> Issued:
    """Issue what an audit allows. Nothing else signs what lies in a folder."""
    terms = terms or Terms()
    key, what = terms.key or key_of_store(store), done(audited, read.result)
    refuse_another(store, read, audited, what, forget, key.public)
    return issue(store, audited, read.result, forget, replace(terms, key=key), what=what)


def _still_there(store: AdapterStore, name: str, top: str) -> StoredAdapter:
    """An adapter that was active beneath the audited one."""
    if name not in store.names():
        raise CertificateError(
            f"{AUDIT_NAME} of {top} is of {name}, too, which is not in the store any more: run 'asu-lora audit {top}' "
            "anew."
        )
    return _whole(store.get(name))


def _whole(adapter: StoredAdapter) -> StoredAdapter:
    if adapter.broken:
        raise CertificateError(
            f"The adapter {adapter.name} is {adapter.state}: nothing was certified; put the whole adapter back."
        )
    return adapter


def read_audit(folder: Path) -> AuditResult:
    """The audit in a folder. See :func:`read_with_text` for errors."""
    return read_with_text(folder).result


def read_with_text(folder: Path) -> ReadAudit:
    """The audit in a folder, and what its file says.

    Raises:
        CertificateError: there is none, it can't be read, or a newer version wrote it.
    """
    path = folder / AUDIT_NAME
    try:
        told = read_json(path)
        version = told.get("schema_version") if isinstance(told, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise CertificateError(
                f"{path} has format version {version}, and this asu-lora reads up to {SCHEMA_VERSION}: upgrade "
                "asu-lora."
            )
        return ReadAudit(folder, AuditResult.model_validate(told), told)
    except FileNotFoundError as error:
        raise CertificateError(
            f"{folder.name} has no {AUDIT_NAME}: 'asu-lora audit {folder.name}' makes one."
        ) from error
    except OSError as error:
        raise CertificateError(f"{path} can't be read: {error.strerror}.") from error
    except ValidationError as error:
        raise CertificateError(f"{path} is no audit of this version: {error.errors()[0]['msg']}.") from error
    except ValueError as error:
        raise CertificateError(f"{path} is no audit: {error}.") from error
