"""One request, from the claim to the end: trained, audited, its text destroyed.

Every step can be cut off by a kill and done again by anybody: an adapter that is in the store already is taken for what
it is, checkpoints are gone on from, and what was written down is not done twice.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from tempfile import TemporaryFile
from typing import Any

from asu_lora.adapters.manifest import Manifest
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import (
    AsuLoraError,
    BaseModelError,
    KeyFault,
    LedgerError,
    NameAtWork,
    OtherRun,
    StoreError,
    TrainingError,
)
from asu_lora.files import disk_errors
from asu_lora.forgetting.forget import forget
from asu_lora.forgetting.result import ForgetResult
from asu_lora.progress import Progress
from asu_lora.requests.forget_text import destroy_in
from asu_lora.requests.intake import stored
from asu_lora.requests.ledger.claims import Claim, LostClaim, break_claim, is_held, must_hold, record, release
from asu_lora.requests.ledger.states import AUDIT_FAILED, AUDITED, FAILED, QUEUED, TRAINED, TRAINING, WITHDRAWN
from asu_lora.requests.leftovers import remove_leftovers
from asu_lora.requests.runner.certifying import certify
from asu_lora.requests.runner.heartbeat import heartbeat
from asu_lora.requests.runner.launch import LaunchFault, train_launched
from asu_lora.requests.runner.refused import clear_refused, refuse, standing_refusal
from asu_lora.requests.runner.workshop import Workshop

ROOM = 1 << 20  # bytes that a store must still take after an unexpected error; else the error was the disk's
# what is no fault of the request: the run ends, and the request waits for the next
ENDS_THE_RUN = (StoreError, LedgerError, KeyFault, BaseModelError, LaunchFault)


GONE = (
    "Its adapter is not in the store any more: 'requests retry' queues it to be trained again, 'requests withdraw' "
    "takes it back."
)
Made = ForgetResult | AsuLoraError  # what a training gave


@dataclass(frozen=True)
class Outcome:
    """What became of one request.

    Attributes:
        state: of the request now, or ``busy`` where somebody else has it.
        trained: whether it was trained here, and not found as a killed run had left it.
        sentence: why it failed, or was not audited.
        text_gone: whether its text was destroyed.
        refused: whether it failed by its audit alone, which brought too much back.
        audit_failed: whether its audit was to be made and could not be.
        certificate: its number, where one was issued.
        worst, kept: what its audit brought back, and how much of the rest is left, where it could tell.
    """

    request: str
    state: str
    seconds: float = 0.0
    trained: bool = False
    sentence: str | None = None
    text_gone: bool = False
    refused: bool = False
    audit_failed: bool = False
    certificate: int | None = None
    worst: float | None = None
    kept: float | None = None


def work_on(shop: Workshop, claim: Claim, progress: Progress, made: Made | None = None) -> Outcome:
    """Do all that is left to do for a claimed request; its own faults are written down and returned.

    Args:
        made: what its training gave, where it was trained beside others; the ledger has been told that it was begun.

    Raises:
        StoreError, LedgerError, KeyFault, BaseModelError, LaunchFault: nothing can go on; the request is queued again.
        KeyboardInterrupt: so it is then.
    """
    name, started = claim.request.id, time.monotonic()
    try:
        with heartbeat(shop.ledger, claim, progress) as beats:
            request = shop.text(name).request(name)
            trained = claim.request.state != TRAINED and _train(shop, claim, request, beats, made)
            return _audit(shop, claim, request, trained, lambda: time.monotonic() - started, beats)
    except LostClaim as lost:
        _tidy_lost(shop, name)
        return Outcome(name, "busy", sentence=str(lost))
    except NameAtWork as error:  # the runner that we took for dead still trains: it is left to it
        release(shop.ledger, claim)
        return Outcome(name, "busy", sentence=str(error))
    except ENDS_THE_RUN:
        if _was_taken(shop, claim):  # withdrawn: what was being read went with it
            _tidy_lost(shop, name)
            return Outcome(name, "busy", sentence=f"The request {name} was withdrawn, or is in other hands by now.")
        put_back(shop, claim, "the run could not go on")
        raise
    except KeyboardInterrupt:
        put_back(shop, claim, "interrupted")
        raise
    except Exception as error:  # whatever it is, the other ninety-nine go on
        if not isinstance(error, AsuLoraError):
            _end_if_full(shop, claim)
        return _fail(shop, claim, stored(error, names=shop.names(name)))


def _train(shop: Workshop, claim: Claim, request: ForgetRequest, beats: Any, made: Made | None) -> bool:
    """Bring the adapter into the store and write it down; False where a killed run had brought it already."""
    name = claim.request.id
    if made is None and name in shop.store.names():
        clear_refused(shop, claim, request)
    if made is None and name in shop.store.names():
        manifest = shop.store.get(name).manifest
        ours = manifest and shop.store.is_request(manifest.request.fingerprint, request.fingerprint())
        if not ours or not claim.request.attempts:
            raise TrainingError(f"The store has another adapter called {name}: rename or remove it, then try again.")
        assert manifest is not None
        _write_down(shop, claim, manifest, found=True)
        return False
    if made is None:
        resume = begin(shop, claim, request)
        try:
            _make(shop, name, request, resume, beats)
        except OtherRun:  # another machine left it, with another precision, or as many processes
            if not resume:
                raise
            beats.note("What an interrupted run left can't be gone on with here: it is trained from its beginning.")
            _make(shop, name, request, False, beats)
    if isinstance(made, AsuLoraError):
        raise made
    manifest = shop.store.get(name).manifest
    assert manifest is not None  # it was written a moment ago
    _write_down(shop, claim, manifest)
    return True


def _make(shop: Workshop, name: str, request: ForgetRequest, resume: bool, beats: Any) -> None:
    settings = shop.settings
    if settings.launch is None:
        given = dict[str, Any](name=name, store=shop.store, resume=resume, progress=beats, kept=shop.kept)
        forget(request, shop.base, settings.config, **given)
    else:
        train_launched(shop.places, settings, name, shop.store.root / name, resume, beats)


def _write_down(shop: Workshop, claim: Claim, manifest: Manifest, **told: bool) -> None:
    """Say that a request is trained; of an adapter that an audit had refused, that it still is."""
    name = claim.request.id
    remove_leftovers(shop.store, name)  # a run that was killed just before may have left checkpoints, made of the text
    refused = standing_refusal(shop.ledger, name, manifest.fingerprint)
    published = {} if refused and shop.audit is None else shop.publish(name)
    record(shop.ledger, claim, TRAINED, _told(name, manifest) | told | refused | published, release=shop.audit is None)


def begin(shop: Workshop, claim: Claim, request: ForgetRequest) -> bool:
    """Write down that a request's training begins; whether it goes on where an interrupted one stopped."""
    name, identity = claim.request.id, shop.settings.identity()
    resume = _was_cut_off_alike(shop, name, identity)
    began = {
        "runner": shop.worker.runner,
        "base": shop.settings.base,
        "settings": identity,
        "resumed": resume,
        "request": shop.store.keyed(request.fingerprint()),  # as its adapter's manifest will name it
    }
    record(shop.ledger, claim, TRAINING, began)
    return resume


def _audit(
    shop: Workshop, claim: Claim, request: ForgetRequest, trained: bool, seconds: Callable[[], float], beats: Progress
) -> Outcome:
    """Audit the adapter where that can be done, and destroy the text where that was asked for."""
    name = claim.request.id
    if shop.audit is None:
        return Outcome(name, TRAINED, seconds(), trained, shop.ledger.get(name).sentence)
    if claim.request.state == TRAINED:
        if name not in shop.store.names() and (shop.results is None or shop.results.find(name) is None):
            return _without_adapter(shop, claim)
        shop.bring([claim.request])  # another machine may have trained it
    try:
        found = shop.audit(shop.audit_task((name,), request, beats))
        passed = not found.keys() & {"over", "unjudged"}
        found |= certify(shop, name, request.forget) if passed else {}
    except ENDS_THE_RUN:
        raise
    except AsuLoraError as error:
        sentence = stored(error, names=shop.names(name))
        record(shop.ledger, claim, AUDIT_FAILED, {"sentence": sentence}, release=True)
        return Outcome(name, TRAINED, seconds(), trained, f"not audited: {sentence}", audit_failed=True)
    if not passed:
        return Outcome(name, FAILED, seconds(), trained, refuse(shop, claim, found), refused="over" in found)
    gone = False
    found = found | shop.publish(name)  # once more: the audit's own page lies beside the weights now
    with shop.ledger.changing() as change:
        must_hold(change, claim)
        change.append(AUDITED, name, found)
        # a second audit, beside others, wants the text: it goes at the end of the run then
        if shop.settings.forget_text and not shop.settings.re_audit and (now := change.get(name)):
            gone = destroy_in(change, now)
        break_claim(change.connection, name)
    if gone:
        shop.ledger.database.scrub(wait=False)  # once more at the end of the run
    outcome = Outcome(name, AUDITED, seconds(), trained, text_gone=gone)
    return replace(outcome, certificate=found.get("certificate"), worst=found.get("worst"), kept=found.get("kept"))


def _without_adapter(shop: Workshop, claim: Claim) -> Outcome:
    """A trained request whose adapter is not here: it fails, but for one that may lie in another machine's store."""
    name = claim.request.id
    if shop.results is None:
        record(shop.ledger, claim, FAILED, {"sentence": GONE}, release=True)
        return Outcome(name, FAILED, sentence=GONE)
    sentence = f"its adapter is neither in this store nor at {shop.results.address}: run where it was trained."
    record(shop.ledger, claim, AUDIT_FAILED, {"sentence": sentence}, release=True)
    return Outcome(name, TRAINED, sentence=f"not audited: {sentence}", audit_failed=True)


def _told(name: str, manifest: Manifest) -> dict[str, Any]:
    """What the ledger says of a trained adapter: numbers and hashes."""
    figures = manifest.figures.model_dump()
    return {
        "adapter": name,
        "fingerprint": manifest.fingerprint,
        "base_fingerprint": manifest.base.fingerprint,
        "seconds": round(manifest.wall_time_s or 0.0, 1),
        "before": figures["before"],
        "after": figures["after"],
    }


def _was_cut_off_alike(shop: Workshop, name: str, identity: str) -> bool:
    """Whether the last training of the request was cut off and had these settings: then its checkpoints are of use."""
    lines = shop.ledger.history(name, [QUEUED, TRAINING, TRAINED, FAILED])
    if lines[-1].event == QUEUED:  # put back by a run that could still say so, or handed in
        lines.pop()
    return bool(lines) and lines[-1].event == TRAINING and lines[-1].payload.get("settings") == identity


def _fail(shop: Workshop, claim: Claim, sentence: str) -> Outcome:
    try:
        if shop.ledger.get(claim.request.id).state == TRAINED:  # trained it is, whatever came after
            record(shop.ledger, claim, AUDIT_FAILED, {"sentence": sentence}, release=True)
            return Outcome(claim.request.id, TRAINED, sentence=f"not audited: {sentence}", audit_failed=True)
        record(shop.ledger, claim, FAILED, {"sentence": sentence}, release=True)
    except LostClaim as lost:
        return Outcome(claim.request.id, "busy", sentence=str(lost))
    remove_leftovers(shop.store, claim.request.id)
    return Outcome(claim.request.id, FAILED, sentence=sentence)


def _end_if_full(shop: Workshop, claim: Claim) -> None:
    """A full disk meets torch and safetensors too, each of which calls it by a name of its own.

    Raises:
        StoreError: the store takes nothing more.
    """
    try:
        with disk_errors(shop.store.root), TemporaryFile(dir=shop.store.root) as file:
            file.write(bytes(ROOM))
            file.flush()
    except StoreError:
        put_back(shop, claim, "the disk is full")
        raise


def put_back(shop: Workshop, claim: Claim, why: str) -> None:
    """Queue a request again whose work was cut off; its checkpoints stay. If the ledger is away, the lease runs out."""
    with suppress(AsuLoraError):
        if shop.ledger.get(claim.request.id).state == TRAINING:
            record(shop.ledger, claim, QUEUED, {"why": why})
        release(shop.ledger, claim)


def _was_taken(shop: Workshop, claim: Claim) -> bool:
    with suppress(AsuLoraError):
        return not is_held(shop.ledger, claim)
    return False  # the ledger is away, which is why the run ends


def _tidy_lost(shop: Workshop, name: str) -> None:
    """What was withdrawn while it was trained here must not stay in the store."""
    with suppress(AsuLoraError):
        if shop.ledger.get(name).state == WITHDRAWN:
            if name in shop.store.names():
                shop.store.remove(name)
            remove_leftovers(shop.store, name)
            if shop.results is not None:
                shop.results.remove(name)
