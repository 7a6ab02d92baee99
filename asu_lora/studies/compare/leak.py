"""The worst case of asking: what the forgotten rows still tell, whichever way of asking gets most out of them.

Scores ask each question once, as it was trained. A person who wants to know insists, asks in other words, begins the
answer. The ways are those of ``asu-lora audit --quick``.
"""

from statistics import fmean

from asu_lora.audit.models import Models
from asu_lora.audit.registry import ATTACKS
from asu_lora.audit.rounding import AuditedWeights
from asu_lora.audit.row_attack import Asking
from asu_lora.audit.session import Inputs, Session
from asu_lora.audit.settings import DEPTHS, AuditSettings
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import DataError
from asu_lora.models.adapter_stack import Stack
from asu_lora.progress import Progress

MOST_ROWS = DEPTHS["quick"].rows
WAYS = ("direct", "prefix", "paraphrases", "insisting")


def worst_leak(stack: Stack, request: ForgetRequest, seed: int = 0, progress: Progress | None = None) -> float | None:
    """The mean share of a row's facts that its worst way of asking brings out, in [0, 1].

    Over all forget rows, or :data:`MOST_ROWS` of them, spread evenly.

    Args:
        stack: the model; its rows are written as its settings say.
        seed: of which insisting prompts a row gets.

    Returns:
        None where no row has a fact that its question doesn't tell.
    """
    weights = AuditedWeights(stack.base.source, [])  # only rounding reads them, which isn't tried here
    session = Session(
        Inputs(list(request.forget), list(request.retain)),
        Models(stack, weights),
        AuditSettings(depth="quick", seed=seed),
        progress or Progress(),
    )
    try:
        rows = session.rows
    except DataError:
        return None
    worst: dict[int, float] = {}
    for name in WAYS:
        attack = ATTACKS[name]()
        assert isinstance(attack, Asking)
        for row, share in attack.measured(session, "candidate", rows).values["facts"].items():
            if share is not None:
                worst[row] = max(share, worst.get(row, 0.0))
    return fmean(worst.values()) if worst else None
