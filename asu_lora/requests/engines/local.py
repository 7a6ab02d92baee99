"""Requests in this process, one after the other or several at once; the base is loaded once.

Any number of such processes may run.
"""

from collections.abc import Callable

from asu_lora.progress import Progress
from asu_lora.requests.ledger.claims import Claim, claim_next
from asu_lora.requests.runner.one_request import Outcome, work_on
from asu_lora.requests.runner.settled_heap import settled_heap
from asu_lora.requests.runner.several import work_on_several
from asu_lora.requests.runner.workshop import Workshop


def work(
    shop: Workshop, progress: Progress, tell: Callable[[Outcome], None], step: Callable[[str], None], at_once: int = 1
) -> None:
    """Work until nothing is left that nobody is at work on.

    Args:
        tell: hears of each request as it ends.
        step: hears of those that are begun.
        at_once: requests that are trained together.

    Raises:
        AsuLoraError: nothing can go on; see :func:`~asu_lora.requests.runner.one_request.work_on`.
    """
    with settled_heap():
        _work(shop, progress, tell, step, at_once)


def _work(
    shop: Workshop, progress: Progress, tell: Callable[[Outcome], None], step: Callable[[str], None], at_once: int
) -> None:
    done = 0
    left_alone: list[str] = []
    while claims := _claims(shop, left_alone, min(at_once, (shop.settings.most or done + at_once) - done)):
        step(f"Working on {', '.join(claim.request.id for claim in claims)}")
        outcomes = work_on_several(shop, claims, progress) if len(claims) > 1 else [work_on(shop, claims[0], progress)]
        for outcome in outcomes:
            if outcome.state in ("busy", *shop.claimable):  # else it would be taken again at once
                left_alone.append(outcome.request)
            done += outcome.state != "busy"  # --most counts what was worked on
            tell(outcome)


def _claims(shop: Workshop, without: list[str], most: int) -> list[Claim]:
    """The requests that are due first, of those that nobody is at work on."""
    found: list[Claim] = []
    while len(found) < most and (claim := claim_next(shop.ledger, shop.worker, shop.claimable, without)):
        found.append(claim)
    return found
