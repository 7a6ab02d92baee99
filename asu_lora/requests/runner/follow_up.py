"""What follows once the queue is worked through: earlier adapters audited again, adapters combined.

Both go by what the ledger says, so that a run that was killed in the middle of them is gone on with, and two runs do
nothing twice.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from asu_lora.adapters.combine import combine
from asu_lora.adapters.fitted_weights import fitting, unfitted
from asu_lora.adapters.manifest import fingerprint_of
from asu_lora.errors import AsuLoraError
from asu_lora.progress import Progress
from asu_lora.requests.forget_text import destroy_in
from asu_lora.requests.intake import masked
from asu_lora.requests.ledger.claims import Claim, LostClaim, claim_duty, claim_one, must_hold, release
from asu_lora.requests.ledger.states import (
    AUDIT_FAILED,
    AUDITED,
    CONSOLIDATED,
    DEPLOYED,
    PUBLISHED,
    RE_AUDITED,
    TEXT_SEALED,
    Line,
    Request,
)
from asu_lora.requests.runner.behind import behind
from asu_lora.requests.runner.certifying import certify, renew
from asu_lora.requests.runner.heartbeat import heartbeat
from asu_lora.requests.runner.one_request import ENDS_THE_RUN
from asu_lora.requests.runner.workshop import Workshop

COMBINING, PUBLISHING = "*combining", "*publishing"  # no request can be called so


@dataclass
class FollowUp:
    """What followed.

    Attributes:
        re_audited: requests whose adapters were audited again, under all others.
        not_re_audited: requests that should have been, and why they weren't.
        over: requests of which the second audit brought back more than the limit, and a sentence.
        unjudged: requests of which the second audit could not tell how much came back, and a sentence.
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
    over: dict[str, str] = field(default_factory=dict)
    unjudged: dict[str, str] = field(default_factory=dict)
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
    renewed = renew(shop, tell)
    done.certified, done.not_certified = renewed.certified, renewed.not_certified
    if shop.settings.consolidate:
        _combine(shop, progress, done, tell)
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
    for name in behind(shop.ledger):
        if most is not None and len(done.re_audited) >= most:
            done.not_re_audited[name] = f"--re-audit-most {most} leaves it to a later run"
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


def _re_audit_one(shop: Workshop, claim: Claim, done: FollowUp, beats: Progress) -> None:
    name, standing = claim.request.id, shop.ledger.standing()
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
        found, event = found | {"under": len(stack)} | shop.publish(name), RE_AUDITED
        done.re_audited.append(name)
        if "over" in found:
            done.over[name] = found["over"]
        elif "unjudged" in found:
            done.unjudged[name] = found["unjudged"]
    except ENDS_THE_RUN:
        raise
    except Exception as error:  # what an audit of one meets stops neither those of others nor what follows
        sentence = masked(str(error)) if isinstance(error, AsuLoraError) else f"Unexpected: {type(error).__name__}."
        found, event = {"sentence": sentence}, AUDIT_FAILED
        done.not_re_audited[name] = found["sentence"]
    with shop.ledger.changing() as change:
        must_hold(change, claim)
        change.append(event, name, found)


def destroy_audited(shop: Workshop) -> tuple[list[str], list[str]]:
    """Destroy the texts of requests whose last audit passes this run's limit; their names, and those that keep theirs.

    The audit may be one of an earlier run without a limit, or could tell nothing.
    """
    gone, kept, limit = [], [], shop.settings.limit
    last = {str(line.request): line.payload for line in shop.ledger.history(events=[AUDITED, RE_AUDITED])}
    for request in shop.ledger.requests([AUDITED, DEPLOYED]):
        if not request.audits or request.text != TEXT_SEALED:
            continue
        worst = last[request.id].get("worst") if request.id in last else None
        if request.sentence or worst is None or (limit is not None and worst > limit):
            kept.append(request.id)
            continue
        with shop.ledger.changing() as change:
            now = change.get(request.id)
            if now and now.audits == request.audits and destroy_in(change, now):  # no other run audited it just now
                gone.append(request.id)
    if gone:
        shop.ledger.database.scrub()
    return gone, kept


# ---- several adapters as one


def groups(shop: Workshop) -> tuple[dict[str, list[str]], list[str]]:
    """Combined adapters that still hold what they say, with their requests; and those that hold a withdrawn one."""
    there = set(shop.store.names())
    standing = {r.id for r in shop.ledger.standing() if r.adapter in there}
    current: dict[str, list[str]] = {}
    stale = []
    replaced = {name for line in shop.ledger.consolidated() for name in line.payload["replaces"]}
    for line in shop.ledger.consolidated():
        name, held = line.payload["adapter"], line.payload["requests"]
        if name in replaced or name not in there:
            continue
        if set(held) <= standing:
            current[name] = held
        else:
            stale.append(name)
    return current, stale


def ungrouped(shop: Workshop) -> list[Request]:
    """Requests with an adapter in the store that no current combined adapter holds, the first to come in first."""
    held, there = {request for requests in groups(shop)[0].values() for request in requests}, set(shop.store.names())
    found = [request for request in shop.ledger.standing() if request.id not in held and request.adapter in there]
    return sorted(found, key=lambda request: (request.received, request.id))


def _combine(shop: Workshop, progress: Progress, done: FollowUp, tell: Callable[[str], None]) -> None:
    claim = claim_duty(shop.ledger, shop.worker, COMBINING)
    if claim is None:
        return  # another run does it
    try:
        with heartbeat(shop.ledger, claim, progress):
            shop.bring(shop.ledger.standing())
            stale = groups(shop)[1]
            in_order = [request.id for request in ungrouped(shop)]
            size = shop.settings.consolidate
            left = {request for name in stale for request in _requests_of(shop, name)} & set(in_order)
            if stale:  # what is left of them goes into one, however few it is
                kept = [name for name in in_order if name in left]
                done.stale += stale
                in_order = [name for name in in_order if name not in left]
                if len(kept) > 1:
                    _combine_one(shop, claim, kept, stale, done, tell)
            for start in range(0, len(in_order) - size + 1, size):
                _combine_one(shop, claim, in_order[start : start + size], [], done, tell)
    finally:
        release(shop.ledger, claim)


def _requests_of(shop: Workshop, name: str) -> list[str]:
    return next(line.payload["requests"] for line in shop.ledger.consolidated() if line.payload["adapter"] == name)


def _name_for(shop: Workshop, requests: list[str]) -> str:
    """A name that neither a request nor somebody else's adapter has."""
    number, there = len(shop.ledger.consolidated()) + 1, set(shop.store.names())
    while True:
        name = f"combined-{number:03d}"
        if shop.ledger.find(name) is None and (name not in there or _is_sum_of(shop, name, requests)):
            return name
        number += 1


def _is_sum_of(shop: Workshop, name: str, requests: list[str]) -> bool:
    manifest = shop.store.get(name).manifest
    return manifest is not None and [entry.name for entry in manifest.method.contents()] == requests


def _combine_one(
    shop: Workshop, claim: Claim, requests: list[str], replaces: list[str], done: FollowUp, tell: Callable[[str], None]
) -> Line:
    """One combined adapter; what a killed run left of it under that name is replaced."""
    name = _name_for(shop, requests)
    tell(f"Combining {len(requests)} adapters as {name}")
    folders = [shop.store.resolve(request) for request in requests]
    for note in unfitted(folders):
        tell(note)
    with shop.store.stage(name, replace=True) as folder:
        weights = fitting([(each, 1.0) for each in folders]) or [1.0] * len(folders)  # trained to add up, or not
        combine(folders, weights, folder, None, name)
    told = {
        "adapter": name,
        "fingerprint": fingerprint_of(shop.store.resolve(name)),
        "requests": requests,
        "replaces": replaces,
    } | shop.publish(name)
    with shop.ledger.changing() as change:
        must_hold(change, claim)
        line = change.append(CONSOLIDATED, None, told)
    done.combined[name] = len(requests)
    return line
