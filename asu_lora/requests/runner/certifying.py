"""Certificates that a run issues, of audits that are passed, with what each request did to those before it.

A certificate is signed as soon as its audit ends, while the text is there to commit to. What its adapter did to earlier
requests is known once these were audited again: then it is issued anew, with the commitments it had.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress

from asu_lora.audit.certificate.certify import certify_stored
from asu_lora.audit.certificate.issue import Terms
from asu_lora.audit.certificate.record import CERTIFICATE_NAME, EarlierEffect
from asu_lora.audit.certificate.signed import read_signed
from asu_lora.audit.certificate.signing_key import read_signing_key
from asu_lora.data.examples import Example
from asu_lora.errors import CertificateError
from asu_lora.requests.ledger.claims import claim_duty, release
from asu_lora.requests.ledger.states import AUDITED, CERTIFIED, DEPLOYED, RE_AUDITED, TRAINED, Line
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


def renew(shop: Workshop, tell: Callable[[str], None]) -> list[str]:
    """Issue certificates anew that don't say yet what their requests did to earlier ones; of which requests."""
    if shop.settings.policy.certify is None or (claim := claim_duty(shop.ledger, shop.worker, CERTIFYING)) is None:
        return []
    renewed = []
    try:
        lines, standing = _lines(shop), _standing(shop)
        for name in sorted(standing & set(shop.store.names())):
            told = _told(shop, name)
            if told is not None and told != (today := earlier_effects(lines, name, standing)) and today:
                tell(f"Certifying {name} anew, with what it did to earlier requests")
                shop.ledger.record(CERTIFIED, name, certify(shop, name) | shop.publish(name))
                renewed.append(name)
    finally:
        release(shop.ledger, claim)
    return renewed


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
    return {request.id for request in shop.ledger.requests([TRAINED, AUDITED, DEPLOYED]) if request.adapter}


def _told(shop: Workshop, name: str) -> list[EarlierEffect] | None:
    """What its certificate says of earlier requests; None where it has none that can be read."""
    with suppress(CertificateError):
        return list(read_signed(shop.store.resolve(name) / CERTIFICATE_NAME).certificate.earlier)
    return None
