"""Which adapters are inside others, and which stand beneath them, however often adapters were combined.

A combined adapter is the sum of its sources, and a source may be one itself. What counts for an adapter that was
trained on top of others is how much of each is active in all, by whatever way it came there.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from asu_lora.adapters.manifest import Manifest, StackedOn

CLOSE = 1e-6  # relative: weights are sums and products of a few numbers that people typed


def contents_of(manifests: Sequence[Manifest | None], sources: Iterable[dict[str, Any]]) -> list[StackedOn]:
    """Everything inside a sum of adapters: the sources, and what is inside each of them, with its weight in the sum.

    Args:
        manifests: of the sources, None where one has none.
        sources: name, weight and fingerprint of each.
    """
    found: dict[str, StackedOn] = {}
    for manifest, source in zip(manifests, sources, strict=True):
        own = StackedOn.model_validate(source)
        for entry in (own, *(manifest.method.contents() if manifest else ())):
            weight = own.weight * (entry.weight if entry is not own else 1.0)
            before = found[entry.fingerprint].weight if entry.fingerprint in found else 0.0
            found[entry.fingerprint] = entry.model_copy(update={"weight": before + weight})
    return list(found.values())


def still_beneath(manifests: Iterable[Manifest | None], contents: Iterable[StackedOn]) -> list[StackedOn]:
    """What the sources were trained on top of and the sum doesn't hold at the same weight."""
    inside = {entry.fingerprint: entry.weight for entry in contents}
    found = {}
    for manifest in manifests:
        for below in manifest.on_top_of if manifest else ():
            if not math.isclose(inside.get(below.fingerprint, 0.0), below.weight, rel_tol=CLOSE):
                found[below.fingerprint] = below
    return list(found.values())


def lacking(below: Iterable[StackedOn], active: Iterable[StackedOn]) -> list[tuple[StackedOn, float]]:
    """What is not active as it was in training, each with the weight that is lacking (negative: too much is active)."""
    there: dict[str, float] = {}
    for entry in active:
        there[entry.fingerprint] = there.get(entry.fingerprint, 0.0) + entry.weight
    return [
        (entry, entry.weight - there.get(entry.fingerprint, 0.0))
        for entry in below
        if not math.isclose(there.get(entry.fingerprint, 0.0), entry.weight, rel_tol=CLOSE)
    ]
