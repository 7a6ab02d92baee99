"""An adapter's own curve of forgetting: the mean answer probability of its forget rows at several of its weights.

Training measures it (``--settle-at``) and the manifest keeps it, numbers only. Between two weights the logarithm of the
probability is interpolated. An exact sum of such adapters keeps the curves of all of them, by fingerprint.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asu_lora.adapters.manifest import Manifest, StackedOn, fingerprint_of, has_manifest, read_manifest
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


@dataclass(frozen=True)
class Part:
    """An adapter of one request inside another: of itself, or of the sum that it went into.

    Attributes:
        fingerprint: of its weights.
        weight: its own in the sum, above 0; 1 of itself.
    """

    fingerprint: str
    weight: float
    curve: ForgettingCurve


def forgetting_curve(folder: str | Path) -> ForgettingCurve:
    """The curve that the manifest of an adapter of one request holds.

    Raises:
        AdapterError: it holds none or a damaged one, or the adapter was trained on top of others.
    """
    manifest, name = _read(Path(folder))
    curve = manifest.method.details.get("forgetting_curve") if manifest else None
    if not curve:
        way = (
            "combine it anew, exactly, of adapters that have one"
            if manifest and manifest.method.contents()
            else "train it with --adds-up (or --settle-at)"
        )
        raise AdapterError(
            f"The adapter '{name}' has no curve of forgetting to fit a weight to: {way}, or give the weights yourself "
            "(NAME:0.9)."
        )
    return _parsed(curve, name)


def curves_inside(folder: str | Path) -> list[Part]:
    """The requests that an adapter makes the base forget, with their curves: one, or those of an exact sum.

    Raises:
        AdapterError: as :func:`forgetting_curve`.
    """
    manifest, name = _read(Path(folder))
    curves = manifest.method.details.get("forgetting_curves") if manifest else None
    if not manifest or not curves:
        curve = forgetting_curve(folder)
        return [Part((manifest and manifest.fingerprint) or fingerprint_of(Path(folder)), 1.0, curve)]
    inside = {entry.fingerprint: entry.weight for entry in manifest.method.contents()}
    if not isinstance(curves, dict) or any(inside.get(fingerprint, 0) <= 0 for fingerprint in curves):
        raise _damaged(name)
    return [Part(fingerprint, inside[fingerprint], _parsed(curve, name)) for fingerprint, curve in curves.items()]


def held_weight(folder: str | Path) -> float:
    """The weights of the requests in an adapter, added up; 1 where its manifest doesn't tell."""
    try:
        return sum(part.weight for part in curves_inside(folder))
    except AdapterError:
        return 1.0


def curves_of_sum(
    manifests: Sequence[Manifest | None], sources: Iterable[dict[str, Any]], contents: Iterable[StackedOn]
) -> dict[str, Any]:
    """{fingerprint: curve} of all requests inside an exact sum; empty where one has no curve, or is subtracted.

    Args:
        manifests: of the sources, None where one has none.
        sources: name, weight and fingerprint of each.
        contents: everything inside the sum, with its weight in it.
    """
    found: dict[str, Any] = {}
    for manifest, source in zip(manifests, sources, strict=True):
        details = manifest.method.details if manifest and not manifest.on_top_of else {}
        own = {source["fingerprint"]: details["forgetting_curve"]} if details.get("forgetting_curve") else {}
        curves = own or details.get("forgetting_curves")
        if not curves or not isinstance(curves, dict):
            return {}
        found |= curves
    weights = {entry.fingerprint: entry.weight for entry in contents}
    return found if all(weights.get(fingerprint, 0) > 0 for fingerprint in found) else {}


def _read(folder: Path) -> tuple[Manifest | None, str]:
    manifest = read_manifest(folder) if has_manifest(folder) else None
    name = manifest.name if manifest else folder.name
    if manifest and manifest.on_top_of:
        raise AdapterError(
            f"The adapter '{name}' was trained on top of '{manifest.on_top_of[0].name}', and a sum can be fitted only "
            "with adapters that were trained alone. Give the weights yourself (NAME:0.9)."
        )
    return manifest, name


def _parsed(curve: Any, name: str) -> ForgettingCurve:
    try:
        points = sorted((float(point["weight"]), float(point["forget_probability"])) for point in curve)
        weights, probabilities = zip(*points, strict=True)
        rising = all(a < b for a, b in itertools.pairwise(weights))
        if len(weights) < 2 or not rising or not all(math.isfinite(w) and 0 <= p <= 1 for w, p in points):
            raise ValueError(points)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise _damaged(name) from error
    return ForgettingCurve(weights, probabilities)


def _damaged(name: str) -> AdapterError:
    return AdapterError(f"The curve of forgetting in the manifest of '{name}' is damaged.")
