"""Several requests at once: trained together, then each written down and audited by itself.

The ledger hears of each as if it had been trained alone: claimed, begun, trained. What happens to one is its own: a
fault, a claim that is lost. A run that is killed leaves their checkpoints, and the next goes on from these.
"""

from collections.abc import Sequence
from contextlib import ExitStack, suppress

from asu_lora.data.request import ForgetRequest
from asu_lora.errors import AsuLoraError, NotEnoughMemory, OtherRun, SettingError
from asu_lora.forgetting.at_once import forget_at_once
from asu_lora.progress import Progress
from asu_lora.requests.ledger.claims import Claim, LostClaim
from asu_lora.requests.ledger.states import TRAINED
from asu_lora.requests.runner.heartbeat import heartbeat
from asu_lora.requests.runner.one_request import ENDS_THE_RUN, Made, Outcome, begin, put_back, work_on
from asu_lora.requests.runner.workshop import Workshop


def work_on_several(shop: Workshop, claims: Sequence[Claim], progress: Progress) -> list[Outcome]:
    """Do all that is left to do for claimed requests.

    Raises:
        As :func:`~asu_lora.requests.runner.one_request.work_on`; those that are not done are queued again.
    """
    left = {claim.request.id: claim for claim in claims}
    outcomes = []
    try:
        made = _train(shop, claims, progress)
        with ExitStack() as waiting:  # the audits of those before may take longer than a lease
            for claim in claims:
                waiting.enter_context(heartbeat(shop.ledger, claim, Progress()))
            for name, claim in list(left.items()):
                del left[name]  # what becomes of it now is seen to there
                outcomes.append(work_on(shop, claim, progress, made.get(name)))
    except BaseException as error:
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else "the run could not go on"
        for claim in left.values():
            put_back(shop, claim, why)
        raise
    return outcomes


def _train(shop: Workshop, claims: Sequence[Claim], progress: Progress) -> dict[str, Made]:
    """What the training of each gave; those that can't be trained beside others are left out."""
    requests: dict[str, ForgetRequest] = {}
    for claim in claims:
        name = claim.request.id
        if claim.request.state != TRAINED and name not in shop.store.names():
            with suppress(AsuLoraError):  # it is met again where this one is worked on alone, and told there
                requests[name] = shop.text(name).request(name)
    if len(requests) < 2:
        return {}
    with ExitStack() as beating:
        heard: dict[str, Progress] = {}
        resume: list[str] = []
        for claim in claims:
            name = claim.request.id
            if name in requests:
                heard[name] = beating.enter_context(heartbeat(shop.ledger, claim, progress))
                try:
                    if begin(shop, claim, requests[name]):
                        resume.append(name)
                except LostClaim:
                    del requests[name]  # it is told where it is worked on alone
        try:
            made = forget_at_once(
                requests,
                shop.base,
                shop.settings.config,
                store=shop.store,
                resume=resume,
                progress=heard,
                kept=shop.kept,
            )
        except ENDS_THE_RUN:
            raise
        except Exception as error:  # want of memory, say: alone, each has its own end
            why = str(error) if isinstance(error, SettingError | NotEnoughMemory) else type(error).__name__
            progress.note(f"{len(requests)} requests are trained one after the other, not at once: {why}")
            return {}
    for each in made.values():
        if isinstance(each, ENDS_THE_RUN) and not isinstance(each, LostClaim):
            raise each
    # alone it may fit, or be possible at all, or from its beginning
    again = NotEnoughMemory | SettingError | OtherRun
    return {name: each for name, each in made.items() if not isinstance(each, again)}
