"""Issuing a certificate: numbered, signed, written beside what it is of, and kept in the store's archive."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from asu_lora.adapters.journal import Journal
from asu_lora.adapters.manifest import Manifest
from asu_lora.adapters.request_key import make_key, read_key
from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.certificate.archive import ARCHIVE, entry_name, last_serial
from asu_lora.audit.certificate.commitments import commitments, new_nonce
from asu_lora.audit.certificate.identity import Audited, done
from asu_lora.audit.certificate.limits import limits
from asu_lora.audit.certificate.page import sealed_page
from asu_lora.audit.certificate.record import (
    CERTIFICATE_NAME,
    PAGE_NAME,
    Asked,
    Certificate,
    Done,
    EarlierEffect,
    moment,
)
from asu_lora.audit.certificate.signed import parse_signed, read_signed, sign
from asu_lora.audit.certificate.signing_key import SigningKey, key_of_store
from asu_lora.audit.results import AuditResult
from asu_lora.data.examples import Example
from asu_lora.errors import CertificateError, SettingError
from asu_lora.files import disk_errors, write_files

VALID_DAYS = 180


@dataclass(frozen=True)
class Terms:
    """What the issuer adds to the figures.

    Attributes:
        valid_days: from the end of the attacks until the certificate expires, 1 to 3650.
        issuer: who issues it, as people shall read it.
        languages: in which the request was asked for; by default "as handed in" and what attacks name.
        earlier: figures of earlier requests before and after this one.
        key: the key to sign with; the store's own by default.
    """

    valid_days: int = VALID_DAYS
    issuer: str | None = None
    languages: Sequence[str] = ()
    earlier: Sequence[EarlierEffect] = ()
    key: SigningKey | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.valid_days <= 3650:
            raise SettingError(f"A certificate is valid for 1 to 3650 days, not {self.valid_days}.")
        if self.issuer is not None and not 0 < len(self.issuer.strip()) <= 200:
            raise SettingError("An issuer's name has 1 to 200 characters.")


@dataclass(frozen=True)
class Issued:
    """A certificate and where it lies: the signed file, the page for people, the public key to pass on."""

    certificate: Certificate
    file: Path
    page: Path
    public_key: str


def issue(
    store: AdapterStore,
    audited: Audited,
    result: AuditResult,
    forget: Sequence[Example] = (),
    terms: Terms | None = None,
    *,
    what: Done | None = None,
) -> Issued:
    """Certify an audit.

    Args:
        store: whose key signs, whose secret salts, and whose archive numbers and keeps the certificate.
        audited: the model that was attacked; the certificate is written into its folder.
        forget: the rows of the request; without them the commitments of its last certificate are carried over, and
            without that there are only counts.
        what: hashes of ``audited``, where they are taken already.

    Raises:
        CertificateError: a figure is NaN, a file is not what its manifest records, the attacks are too old, there is
            no folder to write into, or the last certificate commits to other rows than were attacked.
        StoreError: the disk refuses; then nothing was issued.
    """
    terms = terms or Terms()
    home = audited.home
    if home is None:
        raise CertificateError("A plain base has no folder of this store: there is nothing to certify.")
    key = terms.key or key_of_store(store)
    what = what or done(audited, result)
    with disk_errors(store.root), store.staging.lock():
        secret = read_key(store.root) or make_key(store.root)
        top = audited.adapters[-1][0].manifest if audited.adapters else None
        asked = _asked(top, result, forget, secret)
        asked = asked if forget else _committed_before(asked, home, key, result)
        draft = _draft(what, asked, result, terms, last_serial(store) + 1)
        data = sign(draft, key)
        signed = parse_signed(data, CERTIFICATE_NAME)  # what can't be read again is never issued
        texts = {CERTIFICATE_NAME: data.decode(), PAGE_NAME: sealed_page(signed, key)}
        _publish(store, home, signed.certificate, texts)
    return Issued(signed.certificate, home / CERTIFICATE_NAME, home / PAGE_NAME, key.public)


def _asked(manifest: Manifest | None, result: AuditResult, forget: Sequence[Example], secret: bytes) -> Asked:
    request, handed = manifest.request if manifest else None, result.attacked.rows if result.attacked else None
    nonce = new_nonce() if forget else None
    whole = request if request and handed in (None, request.forget_rows) else None  # a part is not what was trained
    return Asked(
        request=whole.fingerprint if whole else None,
        forget_rows=whole.forget_rows if whole else (handed or result.rows),
        forget_tokens=whole.forget_tokens if whole else None,
        retain_rows=request.retain_rows if request else 0,
        retain_source=request.retain_source if request else None,
        nonce=nonce,
        commitments=commitments(forget, secret, nonce) if nonce else [],
    )


def _committed_before(asked: Asked, home: Path, key: SigningKey, result: AuditResult) -> Asked:
    """The same with the commitments of the certificate that lies there, if the same key signed it of the same request.

    A text that is destroyed can't be committed to again; what was committed to stays true.

    Raises:
        CertificateError: it commits to other rows than this audit attacked.
    """
    try:
        before = read_signed(home / CERTIFICATE_NAME)
    except CertificateError:
        return asked
    was = before.certificate.asked
    if before.public_key != key.public or asked.request is None or was.request != asked.request:
        return asked
    then, now = before.certificate.tried.attacked, result.attacked
    if was.commitments and then and now and (then.rows, then.request) != (now.rows, now.request):
        raise CertificateError(
            "The last certificate commits to other rows than this audit attacked: give the audit's with --forget."
        )
    return asked.model_copy(update={"nonce": was.nonce, "commitments": was.commitments})


def _draft(what: Done, asked: Asked, result: AuditResult, terms: Terms, serial: int) -> Certificate:
    now = datetime.now(UTC)
    attacked, expires = _valid(result, terms.valid_days, now)
    precisions = precisions_of(result)
    languages = list(terms.languages) or languages_of(result)
    return Certificate(
        id=secrets.token_hex(16),
        serial=serial,
        issued=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        expires=expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        issuer=terms.issuer.strip() if terms.issuer else None,
        asked=asked,
        done=what,
        tried=result,
        precisions=precisions,
        languages=languages,
        earlier=list(terms.earlier),
        limits=limits(result, what, precisions, languages, (now - attacked).days),
    )


def _valid(result: AuditResult, days: int, now: datetime) -> tuple[datetime, datetime]:
    """When the attacks ended, and until when what they showed may be relied on: a signature makes no test newer."""
    try:
        attacked = min(now, moment(result.finished))
    except ValueError as error:
        raise CertificateError(f"The audit names no time at which it ended ({error}): run it anew.") from error
    expires = attacked + timedelta(days=days)
    if expires <= now:
        raise CertificateError(
            f"The attacks ended on {result.finished[:10]}, {(now - attacked).days} days ago, and count for {days} "
            "days: run 'asu-lora audit' anew, or let them count longer with --valid."
        )
    return attacked, expires


def precisions_of(result: AuditResult) -> list[str]:
    """At which precisions the model was attacked: its own, and those that attacks name in their settings."""
    return _named(result, [result.precision], ("precision", "precisions"))


def languages_of(result: AuditResult) -> list[str]:
    """In which languages it was asked: as handed in, and those that attacks name in their settings."""
    return _named(result, ["as handed in"], ("language", "languages"))


def _named(result: AuditResult, first: list[str], settings: tuple[str, ...]) -> list[str]:
    values = [attack.settings.get(name) for attack in result.attacks for name in settings]
    named = [part.strip() for value in values if isinstance(value, str) for part in value.split(",")]
    return list(dict.fromkeys([*first, *filter(None, named)]))


def _publish(store: AdapterStore, home: Path, certificate: Certificate, texts: dict[str, str]) -> None:
    """Into the archive and beside the model, all or nothing where both lie in the store."""
    (store.root / ARCHIVE).mkdir(exist_ok=True)
    journal = Journal(store.root)
    journal.write(f"{ARCHIVE}/{entry_name(certificate)}", texts[CERTIFICATE_NAME])
    inside = home.resolve().is_relative_to(store.root.resolve())
    if inside:
        for name, text in texts.items():
            journal.write(f"{home.resolve().relative_to(store.root.resolve()).as_posix()}/{name}", text)
    else:
        write_files(home, texts)
    journal.commit()
