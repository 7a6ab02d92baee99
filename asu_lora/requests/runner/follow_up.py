"""What follows once the queue is worked through: earlier adapters audited again, adapters combined.

Both go by what the ledger says, so that a run that was killed in the middle of them is gone on with, and two runs do
nothing twice.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from asu_lora.errors import StoreError
from asu_lora.progress import Progress
from asu_lora.requests.forget_text import destroy_in
from asu_lora.requests.intake import stored
from asu_lora.requests.ledger.claims import Claim, LostClaim, at_work, claim_duty, claim_one, must_hold, release
from asu_lora.requests.ledger.states import AUDIT_FAILED, AUDITED, DEPLOYED, PUBLISHED, RE_AUDITED, TEXT_SEALED
from asu_lora.requests.runner.behind import behind
from asu_lora.requests.runner.certifying import certify, end_certificates, renew
from asu_lora.requests.runner.combining import combine_all, groups, ungrouped
from asu_lora.requests.runner.heartbeat import heartbeat
from asu_lora.requests.runner.one_request import ENDS_THE_RUN
from asu_lora.requests.runner.workshop import Workshop

PUBLISHING = "*publishing"  # no request can be called so


@dataclass
class FollowUp:
    """What followed.

    Attributes:
        re_audited: requests whose adapters were audited again, under all others.
        not_re_audited: requests that should have been, and why they weren't.
        audit_failed: those of them whose audit was begun and could not be made.
        over: requests of which the second audit brought back more than the limit, and a sentence.
        unjudged: requests of which the second audit could not tell how much came back, and a sentence.
        ended: requests whose certificate was taken out of the adapter's folder, since a later audit is not passed.
        certified: requests with a new certificate that says what they did to earlier ones.
        not_certified: requests that should have one, and why they haven't.
        combined: adapters that were made, and of how many requests.
        stale: combined adapters that hold a withdrawn request, and were built anew under another name.
        published: adapters that were made without an address, or with another, and were published now.
        ungrouped: trained requests that no combined adapter holds yet, in the order in which they came in; told where
            adapters are combined.
    """

    re_audited: list[str] = field(default_factory=list)
    not_re_audited: dict[str, str] = field(default_factory=dict)
    audit_failed: list[str] = field(default_factory=list)
    over: dict[str, str] = field(default_factory=dict)
    unjudged: dict[str, str] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    certified: list[str] = field(default_factory=list)
    not_certified: dict[str, str] = field(default_factory=dict)
    combined: dict[str, int] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    ungrouped: list[str] = field(default_factory=list)


def follow_up(shop: Workshop, progress: Progress, tell: Callable[[str], None]) -> FollowUp:
    """Do what the settings ask for once the queue is empty."""
    done = FollowUp()
    _publish_rest(shop, done, tell)
    if shop.audit and shop.settings.re_audit:
        _re_audit(shop, progress, done, tell)
    done.ended = end_certificates(shop)
    renewed = renew(shop, tell)
    done.certified, done.not_certified = renewed.certified, renewed.not_certified
    if shop.settings.consolidate:
        combined = combine_all(shop, progress, tell)
        done.combined, done.stale = combined.made, combined.stale
        done.ungrouped = [request.id for request in ungrouped(shop)]
    return done


def _publish_rest(shop: Workshop, done: FollowUp, tell: Callable[[str], None]) -> None:
    """Publish what was trained before there was an address, or another one."""
    if shop.results is None or (claim := claim_duty(shop.ledger, shop.worker, PUBLISHING)) is None:
        return
    try:
        with heartbeat(shop.ledger, claim, Progress()):
            there = set(shop.store.names()) - set(shop.results.names())
            ours = {r.adapter: r.id for r in shop.ledger.standing() if r.adapter in there}
            for name in [*ours, *(name for name in groups(shop)[0] if name in there)]:
                tell(f"Publishing {name}")
                shop.ledger.record(PUBLISHED, ours.get(name), {"adapter": name} | shop.publish(name))
                done.published.append(name)
    finally:
        release(shop.ledger, claim)


# ---- audits after additions and withdrawals


def _re_audit(shop: Workshop, progress: Progress, done: FollowUp, tell: Callable[[str], None]) -> None:
    most = shop.settings.policy.re_audit_most
    gone = {request.id for request in shop.ledger.requests([AUDITED, DEPLOYED]) if request.text != TEXT_SEALED}
    idle = gone & set(shop.store.names())  # looked at once: they may be thousands, of earlier years
    for name in behind(shop.ledger):
        if most is not None and len(done.re_audited) >= most:
            done.not_re_audited[name] = f"--re-audit-most {most} leaves it to a later run"
            continue
        if name in idle:
            done.not_re_audited[name] = "its text is destroyed"
            continue
        if lost := _lost(shop, name):
            done.not_re_audited[name] = lost
            continue
        if shop.ledger.get(name).text != TEXT_SEALED:
            done.not_re_audited[name] = "its text is destroyed"
            continue
        claim = claim_one(shop.ledger, shop.worker, name, (AUDITED, DEPLOYED))
        if claim is None:
            done.not_re_audited[name] = "another run is at work on it"
            continue
        tell(f"Auditing {name} again, under all adapters")
        try:
            with heartbeat(shop.ledger, claim, progress) as beats:
                _re_audit_one(shop, claim, done, beats)
        except LostClaim as lost:
            done.not_re_audited[name] = str(lost)
        finally:
            release(shop.ledger, claim)


def _lost(shop: Workshop, name: str) -> str | None:
    """Where a request's adapter is missing; None where it is here or can be fetched."""
    if name in shop.store.names():
        return None
    if shop.results is None:
        return "its adapter is not in the store"
    return None if shop.results.find(name) else f"its adapter is neither in the store nor at {shop.results.address}"


def _re_audit_one(shop: Workshop, claim: Claim, done: FollowUp, beats: Progress) -> None:
    as_of, name, standing = shop.ledger.head().lines, claim.request.id, shop.ledger.standing()
    shop.bring(standing)
    there = set(shop.store.names())
    trained = [r.adapter for r in standing if r.adapter in there]
    stack = (*(str(other) for other in sorted(map(str, trained)) if other != name), name)
    assert shop.audit is not None
    try:
        request = shop.text(name).request(name)
        found = shop.audit(shop.audit_task(stack, request, beats))
        passed = not found.keys() & {"over", "unjudged"}
        found |= certify(shop, name, request.forget) if passed else {}
        found, event = found | {"under": len(stack), "as_of_line": as_of} | shop.publish(name), RE_AUDITED
        done.re_audited.append(name)
        if "over" in found:
            done.over[name] = found["over"]
        elif "unjudged" in found:
            done.unjudged[name] = found["unjudged"]
    except StoreError:
        if {*stack} <= {*shop.store.names()}:
            raise
        done.not_re_audited[name] = "another adapter was taken away meanwhile"  # the next run audits it without that
        return
    except ENDS_THE_RUN:
        raise
    except Exception as error:  # what an audit of one meets stops neither those of others nor what follows
        found, event = {"sentence": stored(error, names=shop.names(name))}, AUDIT_FAILED
        done.not_re_audited[name] = found["sentence"]
        done.audit_failed.append(name)
    with shop.ledger.changing() as change:
        must_hold(change, claim)
        change.append(event, name, found)


def destroy_audited(shop: Workshop) -> tuple[list[str], list[str]]:
    """Destroy the texts of requests whose last audit passes this run's limit; their names, and those that keep theirs.

    The audit may be one of an earlier run without a limit, or could tell nothing. The caller scrubs the database.
    """
    gone, kept, limit, busy = [], [], shop.settings.limit, at_work(shop.ledger)  # another run may want the text still
    last = {str(line.request): line.payload for line in shop.ledger.history(events=[AUDITED, RE_AUDITED])}
    for request in shop.ledger.requests([AUDITED, DEPLOYED]):
        if not request.audits or request.text != TEXT_SEALED or request.id in busy:
            continue
        worst = last[request.id].get("worst") if request.id in last else None
        if request.sentence or worst is None or (limit is not None and worst > limit):
            kept.append(request.id)
            continue
        with shop.ledger.changing() as change:
            now = change.get(request.id)
            if now and now.audits == request.audits and destroy_in(change, now):  # no other run audited it just now
                gone.append(request.id)
    return gone, kept
