"""Folding the active adapters into one, so that serving and the next step's training cost what one adapter costs.

Exactly, ranks add up until they reach what the module's matrix has at most, min(in, out): from there on the sum is
as large as a full update and grows no more. Cut to a rank, the size is that rank's for ever, at the printed error.
"""

from collections.abc import Sequence

from asu_lora.adapters.combine import combine
from asu_lora.adapters.store import AdapterStore


def consolidate(
    active: Sequence[tuple[str, float]], store: AdapterStore, name: str, rank: int | None = None
) -> tuple[str, float]:
    """Add the active adapters up into the new adapter ``name``; the parts stay in the store.

    They are what takes one request back: an exactly folded adapter minus one of its parts is the sum of the others
    (``asu-lora adapters combine folded part:-1 --name without``).

    Returns:
        The name, and the relative error of the update, all modules together.
    """
    if name in store.names():  # a run was stopped between folding and scoring
        return name, float(store.get(name).manifest.method.details["relative_error"])
    with store.stage(name) as folder:
        report = combine(
            [store.resolve(part) for part, _ in active], [weight for _, weight in active], folder, rank, name
        )
    return name, report.relative_error
