"""One request after the other in this process; the base is loaded once. Any number of such processes may run."""

from collections.abc import Callable

from asu_lora.progress import Progress
from asu_lora.requests.ledger.claims import claim_next
from asu_lora.requests.runner.one_request import Outcome, work_on
from asu_lora.requests.runner.settled_heap import settled_heap
from asu_lora.requests.runner.workshop import Workshop


def work(shop: Workshop, progress: Progress, tell: Callable[[Outcome], None]) -> None:
    """Work until nothing is left that nobody is at work on.

    Args:
        tell: hears of each request as it ends.

    Raises:
        AsuLoraError: nothing can go on; see :func:`~asu_lora.requests.runner.one_request.work_on`.
    """
    with settled_heap():
        _work(shop, progress, tell)


def _work(shop: Workshop, progress: Progress, tell: Callable[[Outcome], None]) -> None:
    done = 0
    left_alone: list[str] = []
    while shop.settings.most is None or done < shop.settings.most:
        claim = claim_next(shop.ledger, shop.worker, shop.claimable, left_alone)
        if claim is None:
            return
        outcome = work_on(shop, claim, progress)
        if outcome.state in ("busy", *shop.claimable):  # else it would be taken again at once
            left_alone.append(outcome.request)
        done += 1
        tell(outcome)
