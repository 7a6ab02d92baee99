"""All active adapters made one, so that serving and the next step's training cost what one adapter costs.

Exact sums: ranks add up until a module's matrix has no more, min(in, out). From there on the size stays.
Cut to a rank: the size stays that of the rank, at the printed error.
"""

from collections.abc import Sequence

from asu_lora.adapters.combine import combine
from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import StoreError


def consolidate(
    active: Sequence[tuple[str, float]], store: AdapterStore, name: str, rank: int | None = None
) -> tuple[str, float]:
    """Add the active adapters up into the new adapter ``name``; the parts stay in the store.

    They take one request back: an exact sum minus one of its parts is the sum of the others
    (``asu-lora adapters combine sum part:-1 --name without``).

    Returns:
        The name, and the relative error of the update, all modules together.
    """
    if name in store.names():  # a run was stopped between consolidating and scoring
        manifest = store.get(name).manifest
        if manifest is None:
            raise StoreError(f"The adapter {name} of {store.root} has lost its manifest: remove it and go on.")
        return name, float(manifest.method.details["relative_error"])
    with store.stage(name) as folder:
        report = combine(
            [store.resolve(part) for part, _ in active], [weight for _, weight in active], folder, rank, name
        )
    return name, report.relative_error
