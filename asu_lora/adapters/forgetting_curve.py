"""An adapter's own curve of forgetting: the mean answer probability of its forget rows at several of its weights.

Training measures it (``--settle-at``) and the manifest keeps it, numbers only. Between two weights the logarithm of the
probability is interpolated.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asu_lora.adapters.manifest import has_manifest, read_manifest
from asu_lora.errors import AdapterError

SMALLEST = 1e-9  # probability; below it there is nothing to tell apart


@dataclass(frozen=True)
class ForgettingCurve:
    """How an adapter forgets its own request, by its weight.

    Attributes:
        weights: rising, from 0; 1 is the adapter as it is.
        probabilities: of the answers at each, in [0, 1].
    """

    weights: tuple[float, ...]
    probabilities: tuple[float, ...]

    def at(self, weight: float) -> float:
        """The probability at a weight; beyond the weights measured that of the nearest."""
        weight = min(max(weight, self.weights[0]), self.weights[-1])
        for i in range(1, len(self.weights)):
            if weight <= self.weights[i]:
                share = (weight - self.weights[i - 1]) / (self.weights[i] - self.weights[i - 1])
                below, above = (math.log(max(p, SMALLEST)) for p in self.probabilities[i - 1 : i + 1])
                return math.exp(below + share * (above - below))
        return self.probabilities[-1]

    def weight_for(self, probability: float) -> float:
        """The least weight, up to 1, at which the probability is no higher; 0 where none is needed."""
        return min(enough(self.weights, self.probabilities, probability), 1.0)


def enough(strengths: Sequence[float], probabilities: Sequence[float], level: float) -> float:
    """The lowest strength at which the probability is no more than ``level``, its logarithm interpolated; the highest
    where none is enough, the lowest where that is.

    Args:
        strengths: rising.
        probabilities: of the forget answers at each, in [0, 1].
    """
    level = max(level, SMALLEST)
    for i, probability in enumerate(probabilities):
        if probability <= level:
            if i == 0:
                return strengths[0]
            above, below = (math.log(max(p, SMALLEST)) for p in probabilities[i - 1 : i + 1])
            share = (above - math.log(level)) / (above - below)
            return strengths[i - 1] + share * (strengths[i] - strengths[i - 1])
    return strengths[-1]


def forgetting_curve(folder: str | Path) -> ForgettingCurve:
    """The curve that an adapter's manifest holds.

    Raises:
        AdapterError: it holds none or a damaged one, or the adapter was trained on top of others.
    """
    folder = Path(folder)
    manifest = read_manifest(folder) if has_manifest(folder) else None
    name = manifest.name if manifest else folder.name
    if manifest and manifest.on_top_of:
        raise AdapterError(
            f"The adapter '{name}' was trained on top of '{manifest.on_top_of[0].name}', and a sum can be fitted only "
            "with adapters that were trained alone. Give the weights yourself (NAME:0.9)."
        )
    curve = manifest.method.details.get("forgetting_curve") if manifest else None
    if not curve:
        raise AdapterError(
            f"The adapter '{name}' has no curve of forgetting to fit a weight to: train it with --adds-up (or "
            "--settle-at), or give the weights yourself (NAME:0.9)."
        )
    try:
        points = sorted((float(point["weight"]), float(point["forget_probability"])) for point in curve)
        weights, probabilities = zip(*points, strict=True)
        rising = all(a < b for a, b in itertools.pairwise(weights))
        if len(weights) < 2 or not rising or not all(math.isfinite(w) and 0 <= p <= 1 for w, p in points):
            raise ValueError(points)
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(f"The curve of forgetting in the manifest of '{name}' is damaged.") from error
    return ForgettingCurve(weights, probabilities)
