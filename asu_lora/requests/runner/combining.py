"""Several adapters as one: every K of them, and anew without what was withdrawn.

The ledger says which sum is begun before any of it is written. So what a run leaves that is killed before the sum is
recorded is known, and the next run removes it: nobody would ever take a withdrawn request out of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from asu_lora.adapters.combine import combine
from asu_lora.adapters.fitted_weights import fitting, unfitted
from asu_lora.adapters.manifest import fingerprint_of
from asu_lora.progress import Progress
from asu_lora.requests.last_trained import held_as_trained, last_trained
from asu_lora.requests.ledger.claims import Claim, claim_duty, must_hold, release
from asu_lora.requests.ledger.home import NAME as STORE
from asu_lora.requests.ledger.states import COMBINATION_BEGUN, COMBINATION_REMOVED, CONSOLIDATED, Request
from asu_lora.requests.results import ResultStore
from asu_lora.requests.runner.heartbeat import heartbeat
from asu_lora.requests.runner.workshop import Workshop

COMBINING = "*combining"  # no request can be called so


@dataclass
class Combined:
    """What combining did.

    Attributes:
        made: adapters, and of how many requests.
        stale: those that hold a withdrawn request or an earlier adapter, and were built anew under another name.
    """

    made: dict[str, int] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)


def combine_all(shop: Workshop, progress: Progress, tell: Callable[[str], None]) -> Combined:
    """Make one adapter of every K; what a killed run left of one is removed first.

    Raises:
        StoreError: the disk or the address refuses.
        LostClaim: another run does it by now.
    """
    done = Combined()
    with _duty(shop, progress) as claim:
        if claim is not None:
            _remove_begun(shop, claim)
            _combine(shop, claim, done, tell)
    return done


def finish_combining(shop: Workshop) -> None:
    """Remove what a killed run left of a sum, also where nothing is combined any more.

    Raises:
        StoreError: the disk or the address refuses.
    """
    if any(_is_here(shop, told) for told in _begun(shop).values()):
        with _duty(shop, Progress()) as claim:
            if claim is not None:
                _remove_begun(shop, claim)


@contextmanager
def _duty(shop: Workshop, progress: Progress) -> Iterator[Claim | None]:
    """The claim of all combining while the block lasts; None where another run has it."""
    claim = claim_duty(shop.ledger, shop.worker, COMBINING)
    if claim is None:
        yield None
        return
    try:
        with heartbeat(shop.ledger, claim, progress):
            yield claim
    finally:
        release(shop.ledger, claim)


def groups(shop: Workshop) -> tuple[dict[str, list[str]], list[str]]:
    """Combined adapters that still hold what they say, with their requests; and those that hold what acts no more.

    That is a withdrawn request, or an earlier adapter of one that was refused and trained again.
    """
    there, made = set(shop.store.names()), last_trained(shop.ledger)
    standing = {r.id: r for r in shop.ledger.standing() if r.adapter in there}
    current: dict[str, list[str]] = {}
    stale = []
    replaced = {name for line in shop.ledger.consolidated() for name in line.payload["replaces"]}
    for line in shop.ledger.consolidated():
        name, held = line.payload["adapter"], line.payload["requests"]
        if name in replaced or name not in there:
            continue
        manifest = shop.store.get(name).manifest
        inside = manifest.method.contents() if manifest else []
        if all(request in standing and held_as_trained(standing[request], inside, made) for request in held):
            current[name] = held
        else:
            stale.append(name)
    return current, stale


def ungrouped(shop: Workshop) -> list[Request]:
    """Requests with an adapter in the store that no current combined adapter holds, the first to come in first."""
    held, there = {request for requests in groups(shop)[0].values() for request in requests}, set(shop.store.names())
    found = [request for request in shop.ledger.standing() if request.id not in held and request.adapter in there]
    return sorted(found, key=lambda request: (request.received, request.id))


def _combine(shop: Workshop, claim: Claim, done: Combined, tell: Callable[[str], None]) -> None:
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


def _requests_of(shop: Workshop, name: str) -> list[str]:
    return next(line.payload["requests"] for line in shop.ledger.consolidated() if line.payload["adapter"] == name)


def _name_for(shop: Workshop, requests: list[str]) -> str:
    """A name that neither a request nor somebody else's adapter has."""
    number, there, begun = len(shop.ledger.consolidated()) + 1, set(shop.store.names()), _begun(shop)
    while True:
        name = f"combined-{number:03d}"
        free = name not in there or _is_sum_of(shop, name, requests)  # earlier versions did not say what they begin
        if free and name not in begun and shop.ledger.find(name) is None:
            return name
        number += 1


def _combine_one(
    shop: Workshop, claim: Claim, requests: list[str], replaces: list[str], done: Combined, tell: Callable[[str], None]
) -> None:
    """One combined adapter: begun, written, published, recorded."""
    name = _name_for(shop, requests)
    tell(f"Combining {len(requests)} adapters as {name}")
    folders = [shop.store.resolve(request) for request in requests]
    for note in unfitted(folders):
        tell(note)
    begun: dict[str, Any] = {"adapter": name, "requests": requests}
    if shop.results is not None:  # each machine may have a store of its own
        begun |= {"published": shop.results.address, "store": shop.store.keyed(STORE)}
    with shop.ledger.changing() as change:
        must_hold(change, claim)
        change.append(COMBINATION_BEGUN, None, begun)
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
        change.append(CONSOLIDATED, None, told)
    done.made[name] = len(requests)


# ---- what a killed run left


def _begun(shop: Workshop) -> dict[str, dict[str, Any]]:
    """Sums that were begun and never recorded, by name: what the ledger says of them."""
    left: dict[str, dict[str, Any]] = {}
    for line in shop.ledger.history(events=[COMBINATION_BEGUN, COMBINATION_REMOVED, CONSOLIDATED]):
        if line.event == COMBINATION_BEGUN:
            left[line.payload["adapter"]] = line.payload
        else:
            left.pop(line.payload["adapter"], None)
    return left


def _is_here(shop: Workshop, told: dict[str, Any]) -> bool:
    """Whether a sum was begun in this store."""
    return "store" not in told or shop.store.is_request(told["store"], STORE)


def _remove_begun(shop: Workshop, claim: Claim) -> None:
    """Remove what is there of them, in the store and where it was published; somebody else's of that name stays."""
    for name, told in _begun(shop).items():
        if not _is_here(shop, told):
            continue
        if "published" in told:
            ResultStore(told["published"]).remove(name)
        if name in shop.store.names() and _is_sum_of(shop, name, told["requests"]):
            shop.store.remove(name)
        with shop.ledger.changing() as change:
            must_hold(change, claim)
            change.append(COMBINATION_REMOVED, None, {"adapter": name})


def _is_sum_of(shop: Workshop, name: str, requests: list[str]) -> bool:
    manifest = shop.store.get(name).manifest
    return manifest is not None and [entry.name for entry in manifest.method.contents()] == requests
