"""Checking a certificate without a network: signature, key, dates, the files it names, and whether it is the newest.

A certificate names files, and whoever wrote it chose the names. So files are looked for in three places only: a folder
that the person checking gives, the certificate's own folder, and the store's folder of that adapter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from asu_lora.adapters.manifest import CONFIG_NAME, WEIGHTS_NAME
from asu_lora.adapters.request_key import read_key
from asu_lora.adapters.store import AdapterStore
from asu_lora.adapters.verify import Check
from asu_lora.audit.certificate.archive import newest_of
from asu_lora.audit.certificate.commitments import opens, row_bytes, row_salt
from asu_lora.audit.certificate.identity import merged_files
from asu_lora.audit.certificate.limits import OLD
from asu_lora.audit.certificate.looked import Looked
from asu_lora.audit.certificate.page import page_problem
from asu_lora.audit.certificate.record import CERTIFICATE_NAME, PAGE_NAME, AdapterIdentity, Certificate, moment
from asu_lora.audit.certificate.signed import SignedCertificate, read_signed
from asu_lora.audit.certificate.signing_key import public_key_of_store
from asu_lora.data.examples import Example
from asu_lora.errors import AsuLoraError, CertificateError
from asu_lora.files import refuse_link_outwards

CLOCKS_DIFFER = timedelta(minutes=5)


@dataclass(frozen=True)
class Evidence:
    """What a certificate is held against.

    Attributes:
        keys: public keys that are trusted, in hexadecimal, besides the store's own.
        store: a store that may hold the adapters, the key and newer certificates.
        adapters: folders of the adapters, wherever they lie.
        merged: the merged folder.
        base_fingerprint: of the base at hand, or several that it has had.
        forget: the rows that were to be forgotten; the store's secret gives their salts.
        now: the time to check dates against; the clock's by default.
    """

    keys: Sequence[str] = ()
    store: AdapterStore | None = None
    adapters: Sequence[Path] = ()
    merged: Path | None = None
    base_fingerprint: str | Sequence[str] | None = None
    forget: Sequence[Example] | None = None
    now: datetime | None = None


@dataclass(frozen=True)
class CertificateReport:
    """All checks of one certificate whose signature holds."""

    file: Path
    certificate: Certificate
    public_key: str
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {
            "file": str(self.file),
            "ok": self.ok,
            "serial": self.certificate.serial,
            "expires": self.certificate.expires,
            "public_key": self.public_key,
            "checks": [
                {"check": check.name, "ok": check.ok, "problem": check.problem, "note": check.note}
                for check in self.checks
            ],
        }

    def raise_if_bad(self) -> None:
        """Raises:
        CertificateError: with the first problem, if there is one.
        """
        for check in self.checks:
            if check.problem:
                raise CertificateError(f"{self.file} is not to be trusted: {check.problem}")


def verify_certificate(file: Path, evidence: Evidence | None = None) -> CertificateReport:
    """Check a certificate against what there is.

    Raises:
        CertificateError: it is unsigned, changed, cut off or no certificate; everything else is a check's problem.
    """
    evidence = evidence or Evidence()
    signed = read_signed(file)
    certificate = signed.certificate
    report = CertificateReport(file, certificate, signed.public_key, [Check("signature")])
    add = report.checks.append
    add(_key(signed, evidence))
    add(_dates(certificate, evidence.now))
    add(_newest(signed, file, evidence))
    looked = Looked(evidence.store.root if evidence.store else None)
    for adapter in certificate.done.adapters:
        add(_adapter(adapter, certificate, file, evidence, looked))
    for folder in evidence.adapters:
        if folder not in looked.folders:
            add(Check(f"adapter {folder.name}", "it speaks of no adapter with these weights: it belongs to another."))
    if certificate.done.merged is not None:
        add(_merged(certificate, file, evidence, looked))
    elif evidence.merged:
        add(Check("merged", "it speaks of no merged folder: it belongs to another model."))
    add(_base(certificate, evidence))
    if evidence.forget is not None:
        add(_rows(certificate, evidence.forget, evidence.store))
    add(_page(signed, file))
    return report


def _key(signed: SignedCertificate, evidence: Evidence) -> Check:
    own = public_key_of_store(evidence.store) if evidence.store else None
    if signed.public_key in (*evidence.keys, own):
        whose = "the trusted key" if signed.public_key in evidence.keys else "this store's own key"
        return Check("key", note=f"signed with {whose} {signed.public_key[:16]}...")
    if not evidence.keys and own is None:
        why = (
            "get its public key from the issuer, not from whoever brought the certificate, and give it with --key, "
            "or your own store with --store."
        )
    else:
        why = "whoever holds that key may have written anything."
    return Check("key", f"it is signed with {signed.public_key[:16]}..., a key that is not known here: {why}")


def _dates(certificate: Certificate, now: datetime | None) -> Check:
    now = now or datetime.now(UTC)
    if certificate.expired(now):
        return Check("dates", f"it expired on {certificate.expires[:10]}: audit again.")
    if moment(certificate.issued) > now + CLOCKS_DIFFER:
        return Check("dates", f"it is dated {certificate.issued}, which is still to come.")
    note = f"issued {certificate.issued[:10]}, valid until {certificate.expires[:10]}"
    try:
        days = (now - moment(certificate.tried.finished)).days
    except ValueError:
        return Check("dates", "it names no time at which its attacks ended.")
    if days >= OLD:
        note += f"; its attacks are {days} days old, and what has become known since then was not tried"
    return Check("dates", note=note)


def _newest(signed: SignedCertificate, file: Path, evidence: Evidence) -> Check:
    """Of the same model and request there must be no later one, in the archive or beside the adapter."""
    certificate = signed.certificate
    serials = [newest_of(evidence.store, signed)] if evidence.store else []
    places = [folder / CERTIFICATE_NAME for folder in (*evidence.adapters, evidence.merged, file.parent) if folder]
    if evidence.store:
        places += [evidence.store.root / adapter.name / CERTIFICATE_NAME for adapter in certificate.done.adapters[-1:]]
    for place in places:
        try:
            other = read_signed(place)
        except CertificateError:
            continue
        if (
            other.public_key == signed.public_key
            and other.certificate.done.subject() == certificate.done.subject()
            and other.certificate.asked.request == certificate.asked.request
            and place.resolve() != file.resolve()
        ):
            serials.append(other.certificate.serial)
    newest = max(serials, default=0)
    if newest > certificate.serial:
        return Check("newest", f"it has number {certificate.serial}, and number {newest} of the same model is newer.")
    return Check("newest", note=None if serials else "no store or folder here that could hold a newer one")


def _adapter(
    adapter: AdapterIdentity, certificate: Certificate, file: Path, evidence: Evidence, looked: Looked
) -> Check:
    name = f"adapter {adapter.name}"
    try:
        folder = _folder_of(adapter, certificate, file, evidence, looked)
        if folder is None:
            return Check(name, note="its folder is not here: not hashed; give it with --adapter")
        looked.folders.add(folder)
        problem = looked.problem(folder, adapter.files)
        if problem and not _has_weights(folder, adapter, looked) and (folder / WEIGHTS_NAME).is_file():
            problem = (
                f"it is of other weights than those of {folder.name}: it belongs to another adapter or an older state."
            )
    except AsuLoraError as error:
        return Check(name, str(error))
    return Check(name, problem, None if problem else f"{len(adapter.files)} files as certified")


def _has_weights(folder: Path, adapter: AdapterIdentity, looked: Looked) -> bool:
    """Whether a folder holds the weights that were certified."""
    return (folder / WEIGHTS_NAME).is_file() and looked.sha256(folder, WEIGHTS_NAME) == adapter.fingerprint


def _folder_of(
    adapter: AdapterIdentity, certificate: Certificate, file: Path, evidence: Evidence, looked: Looked
) -> Path | None:
    given = list(evidence.adapters)
    if len(given) == 1 and len(certificate.done.adapters) == 1:
        return given[0]
    for folder in given:
        if _has_weights(folder, adapter, looked):
            return folder
    own = file.parent
    if adapter is certificate.done.adapters[-1] and (own / CONFIG_NAME).is_file() and not certificate.done.merged:
        return own
    if evidence.store and (evidence.store.root / adapter.name).is_dir():
        folder = evidence.store.root / adapter.name
        refuse_link_outwards(evidence.store.root, folder)
        return folder
    return None


def _merged(certificate: Certificate, file: Path, evidence: Evidence, looked: Looked) -> Check:
    own = file.parent if (file.parent / "config.json").is_file() else None
    folder = evidence.merged or own
    if folder is None:
        return Check("merged", note="its folder is not here: not hashed; give it with --merged")
    try:
        files = certificate.done.merged or {}
        problem = looked.problem(folder, files)
        if problem is None and (more := sorted({*merged_files(folder)} - {*files})):
            problem = (
                f"{more[0]} in {folder} is not among the files that were certified, and may be loaded: take it out."
            )
    except AsuLoraError as error:
        problem = str(error)
    return Check("merged", problem, None if problem else f"{len(certificate.done.merged or {})} files as certified")


def _base(certificate: Certificate, evidence: Evidence) -> Check:
    base = certificate.done.base
    if evidence.base_fingerprint is None:
        return Check("base", note="not looked at; give it with --base")
    if base is None:
        return Check("base", "it names no base.")
    known = evidence.base_fingerprint
    known = (known,) if isinstance(known, str) else tuple(known)
    if base.fingerprint not in known:
        return Check(
            "base",
            f"it is of {base.id} with the fingerprint {base.fingerprint[:16]}, and the base at hand has "
            f"{known[0][:16]}.",
        )
    return Check("base", note="the weights are those that were certified")


def _rows(certificate: Certificate, forget: Sequence[Example], store: AdapterStore | None) -> Check:
    """Open every commitment with the rows at hand."""
    asked, secret = certificate.asked, read_key(store.root) if store else None
    if not asked.nonce:
        return Check("rows", "it commits to no rows: they can't be held against it.")
    if secret is None:
        return Check("rows", "the salts are derived from the store's secret, which is not here: give --store.")
    if len(forget) != len(asked.commitments):
        return Check("rows", f"it commits to {len(asked.commitments)} rows, and there are {len(forget)}.")
    for number, (row, commitment) in enumerate(zip(forget, asked.commitments, strict=True)):
        if not opens(commitment, row_salt(secret, asked.nonce, number), row_bytes(row)):
            return Check("rows", f"row {number + 1} is not the one that was certified.")
    return Check("rows", note=f"all {len(forget)} are those that were certified")


def _page(signed: SignedCertificate, file: Path) -> Check:
    page = file.with_name(PAGE_NAME)
    if not page.is_file():
        return Check("page", note="no page beside it")
    return Check("page", page_problem(signed, page))
