"""Certificates that a run issues, of audits that are passed, with what each request did to those before it.

A certificate is signed as soon as its audit ends, while the text is there to commit to. What its adapter did to earlier
requests is known once these were audited again: then it is issued anew, with the commitments it had.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from asu_lora.audit.certificate.certify import certify_stored, read_audit
from asu_lora.audit.certificate.issue import Terms
from asu_lora.audit.certificate.record import CERTIFICATE_NAME, PAGE_NAME, EarlierEffect
from asu_lora.audit.certificate.signed import SignedCertificate, read_signed
from asu_lora.audit.certificate.signing_key import SigningKey, key_of_store, read_signing_key
from asu_lora.audit.results import AuditResult
from asu_lora.data.examples import Example
from asu_lora.errors import AdapterError, CertificateError, StoreError
from asu_lora.files import disk_errors
from asu_lora.progress import Progress
from asu_lora.requests.intake import masked
from asu_lora.requests.ledger.claims import at_work, claim_duty, release
from asu_lora.requests.ledger.states import (
    AUDITED,
    CERTIFICATE_ENDED,
    CERTIFIED,
    RE_AUDITED,
    TEXT_SEALED,
    TRAINED,
    Line,
    Request,
)
from asu_lora.requests.runner.heartbeat import heartbeat
from asu_lora.requests.runner.workshop import Workshop

CERTIFYING = "*certifying"  # no request can be called so
FIGURE = "most knowledge brought back, all adapters active after"
MOST = 20  # earlier requests on a certificate: those that changed most


def certify(shop: Workshop, name: str, rows: Sequence[Example] = ()) -> dict[str, int | str]:
    """Certify the audit in an adapter's folder, where the run does so.

    Args:
        rows: of the request, to commit to; without them the commitments of its last certificate are carried over.

    Returns:
        What the ledger says of it: ``certificate``, its number, and ``certificate_hash``; nothing where none is issued.

    Raises:
        CertificateError: it can't be issued.
        StoreError: the disk refuses.
    """
    wanted = shop.settings.policy.certify
    if wanted is None:
        return {}
    key = read_signing_key(wanted.key_file) if wanted.key_file else None
    earlier = earlier_effects(_lines(shop), name, _standing(shop))
    issued = certify_stored(shop.store, name, rows, Terms(wanted.valid_days, wanted.issuer, (), earlier, key))
    digest = hashlib.sha256(issued.file.read_bytes()).hexdigest()
    return {"certificate": issued.certificate.serial, "certificate_hash": digest}


@dataclass
class Renewed:
    """Certificates that were issued anew, and those that could not be: of which requests, and why not."""

    certified: list[str] = field(default_factory=list)
    not_certified: dict[str, str] = field(default_factory=dict)


def renew(shop: Workshop, tell: Callable[[str], None]) -> Renewed:
    """Issue certificates anew that don't say yet what their requests did to earlier ones.

    One that a killed run had issued and not written down is written down. Audits that were not passed get none.
    """
    done = Renewed()
    if shop.settings.policy.certify is None or (claim := claim_duty(shop.ledger, shop.worker, CERTIFYING)) is None:
        return done
    try:
        with heartbeat(shop.ledger, claim, Progress()):
            lines, standing, there = _lines(shop), _standing(shop), set(shop.store.names())
            for name in sorted((standing & there) - set(at_work(shop.ledger))):  # its audit is being made anew
                try:
                    _renew_one(shop, lines, standing, name, done, tell)
                except (CertificateError, AdapterError) as error:
                    done.not_certified[name] = masked(str(error), shop.names(name))
                except StoreError:
                    if name in shop.store.names():
                        raise  # the disk's fault; else it was withdrawn meanwhile
    finally:
        release(shop.ledger, claim)
    return done


def _renew_one(
    shop: Workshop, lines: Sequence[Line], standing: set[str], name: str, done: Renewed, tell: Callable[[str], None]
) -> None:
    before, request = _certificate_of(shop, name), shop.ledger.get(name)
    if before is None or not request.audits or request.sentence:  # too much came back in its last audit
        return
    if (adapter := shop.store.get(name)).broken:
        raise CertificateError(f"The adapter {name} is {adapter.state}: put the whole adapter back.")
    _catch_up(shop, name, before)
    today = earlier_effects(lines, name, standing)
    if today and list(before.certificate.earlier) != today:
        tell(f"Certifying {name} anew, with what it did to earlier requests")
        rows = _rows_to_commit_to(shop, request, before)
        shop.ledger.record(CERTIFIED, name, certify(shop, name, rows) | shop.publish(name))
        done.certified.append(name)


def end_certificates(shop: Workshop) -> list[str]:
    """Take certificates out of the folders of adapters whose last audit is not passed; of which requests.

    Who gets such a folder must not find a certificate in it that speaks of an earlier audit. The archive keeps it.

    Raises:
        StoreError: the disk or the address refuses.
    """
    done, there, busy = [], set(shop.store.names()), at_work(shop.ledger)
    for request in shop.ledger.requests():
        name = request.adapter
        if not request.sentence or name is None or name not in there or request.id in busy:
            continue
        folder, signed = shop.store.root / name, _certificate_of(shop, name)
        if signed is None or shop.store.get(name).broken:
            continue
        if signed.certificate.tried == _audit_in(folder):  # one of this audit says what it found
            continue
        shop.ledger.record(CERTIFICATE_ENDED, request.id, {"ended": signed.certificate.serial})
        with disk_errors(shop.store.root), shop.store.staging.lock():
            for file in (PAGE_NAME, CERTIFICATE_NAME):  # the one that tells of both comes last
                (folder / file).unlink(missing_ok=True)
        if request.stands:  # one that was refused is not at the address
            shop.publish(name)
        done.append(request.id)
    return done


def _audit_in(folder: Path) -> AuditResult | None:
    with suppress(CertificateError):
        return read_audit(folder)
    return None


def _catch_up(shop: Workshop, name: str, signed: SignedCertificate) -> None:
    """Write a certificate down that is another than the last of which the ledger knows."""
    told = [
        line.payload.get("certificate_hash") for line in shop.ledger.history(name, [AUDITED, RE_AUDITED, CERTIFIED])
    ]
    known, digest = [each for each in told if each], hashlib.sha256(signed.data).hexdigest()
    if known and known[-1] != digest:
        found = {"certificate": signed.certificate.serial, "certificate_hash": digest}
        shop.ledger.record(CERTIFIED, name, found | shop.publish(name))


def _rows_to_commit_to(shop: Workshop, request: Request, before: SignedCertificate) -> Sequence[Example]:
    """None where the commitments of the last certificate can be carried over: where the same key signs again.

    Raises:
        CertificateError: they can't, and the text to commit to is gone.
    """
    if before.public_key == _key(shop).public:
        return ()
    if request.text == TEXT_SEALED:
        return shop.text(request.id).request(request.id).forget
    if before.certificate.asked.commitments:
        raise CertificateError(
            "Its certificate was signed with another key, and without its text a new one could commit to nothing: "
            "give that key with --signing-key."
        )
    return ()


def _key(shop: Workshop) -> SigningKey:
    wanted = shop.settings.policy.certify
    return read_signing_key(wanted.key_file) if wanted and wanted.key_file else key_of_store(shop.store)


def earlier_effects(lines: Sequence[Line], name: str, standing: set[str]) -> list[EarlierEffect]:
    """What came back of earlier requests: the last audit before this one was trained, and the first after it.

    Args:
        lines: of trainings and audits, in order.
        standing: requests whose adapters still act.
    """
    trained = max((line.number for line in lines if line.event == TRAINED and line.request == name), default=None)
    if trained is None:
        return []
    before: dict[str, Line] = {}
    after: dict[str, Line] = {}
    for line in lines:
        other = str(line.request)
        if other == name or other not in standing or line.payload.get("worst") is None:
            continue
        if line.number < trained:
            before[other] = line
        elif line.event == RE_AUDITED:
            after.setdefault(other, line)
    found = [
        EarlierEffect(name=other, figure=FIGURE, before=then.payload["worst"], after=after[other].payload["worst"])
        for other, then in before.items()
        if other in after and after[other].payload.get("depth") == then.payload.get("depth")
    ]
    return sorted(found, key=lambda effect: (effect.before - effect.after, effect.name))[:MOST]


def _lines(shop: Workshop) -> list[Line]:
    return shop.ledger.history(events=[TRAINED, AUDITED, RE_AUDITED])


def _standing(shop: Workshop) -> set[str]:
    return {request.id for request in shop.ledger.standing() if request.adapter}


def _certificate_of(shop: Workshop, name: str) -> SignedCertificate | None:
    """What lies beside an adapter; None where that is none that can be read."""
    with suppress(CertificateError):
        return read_signed(shop.store.root / name / CERTIFICATE_NAME)
    return None
