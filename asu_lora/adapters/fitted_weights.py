"""Weights at which adapters forget in a sum what each forgets alone: read off their manifests, without any text.

In a sum every adapter also presses on what the others have forgotten: SmolLM2's take about 0.1 nats from a forgotten
answer each, whatever they forget themselves (docs/results/adding_up.md). So a sum at full weight forgets more than was
asked for, and what is kept pays for it. Each adapter's manifest has its own curve, answer probability against weight
(``--settle-at``). With P the pressure of the others on it, adapter i gets the weight w_i at which

    ln p_i(w_i) - P = ln p_i(1),        P = 1.5 * interference * (k - 1) * mean(w)

for k adapters; ln p_i is interpolated between the measured weights. The half more is for the words: asked, a model
strays further from the true answer in company than its probability says. Where several adapters are named together
without a weight, and all of them have curves, these are the weights that they get.

A combined adapter counts as the n adapters in it, of weights u_i, which share its weight w. Alone they forget under
their own pressure P' = 1.5 * interference * (n - 1) * mean(u), so that

    ln p_i(w u_i) - P = ln p_i(u_i) - P'

and w is the largest of what they ask for: none of its requests is forgotten less than by it alone.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

from asu_lora.adapters.adapter_spec import typed_adapter, weighted
from asu_lora.adapters.forgetting_curve import Part, curves_inside, enough
from asu_lora.adapters.manifest import has_manifest, read_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import AdapterError, SettingError

INTERFERENCE = 0.1  # nats that an adapter at weight 1 takes from another one's forgotten answers
WORDS = 1.5  # times that: then the words of the answers are as far from the truth as alone, and the probability nearly
ALL = 50.0  # nats that take any probability above 1; thousands of requests press more, which no float can hold
LEAST = 0.05  # weight; a sum keeps every adapter that it is made of


def fitted_weights(folders: Sequence[str | Path], interference: float = INTERFERENCE) -> list[float]:
    """The weight of each adapter in the sum of all of them; 1 for a single one.

    Args:
        folders: adapters with curves in their manifests. Their order doesn't matter.
        interference: nats that one adapter at weight 1 takes from another's forgotten answers.

    Raises:
        AdapterError: see :func:`forgetting_curve`.
        SettingError: an interference that is no number from 0 up.
    """
    if not np.isfinite(interference) or interference < 0:
        raise SettingError(f"The interference must be a number of nats, 0 or more, not {interference}.")
    adapters = [curves_inside(folder) for folder in folders]
    _refuse_twice(folders, adapters)
    shares = [part.weight for parts in adapters for part in parts]
    most = WORDS * interference * (len(shares) - 1)
    if not most or len(adapters) < 2:
        return [1.0] * len(adapters)

    def weights(pressure: float) -> list[float]:
        return [_weight(parts, pressure, interference) for parts in adapters]

    def too_low(pressure: float) -> float:
        acting = [w * part.weight for w, parts in zip(weights(pressure), adapters, strict=True) for part in parts]
        return most * float(np.mean(acting)) - pressure

    pressure = brentq(too_low, 0.0, most * float(np.mean(shares)), xtol=1e-6)
    return [round(weight, 3) for weight in weights(pressure)]


def _weight(parts: Sequence[Part], pressure: float, interference: float) -> float:
    """The least weight of an adapter, up to 1, at which each of its parts forgets under a pressure what it does alone.

    Args:
        pressure: nats, of all parts of all adapters.
    """
    alone = WORDS * interference * (len(parts) - 1) * float(np.mean([part.weight for part in parts]))
    asked = []
    for part in parts:
        level = part.curve.at(part.weight) * math.exp(min(pressure - alone, ALL))
        asked.append(enough(part.curve.weights, part.curve.probabilities, level) / part.weight)
    return min(max(*asked, LEAST), 1.0)


def _refuse_twice(folders: Sequence[str | Path], adapters: Sequence[Sequence[Part]]) -> None:
    """Refuse a sum that holds one adapter twice, by itself or inside a combined one: it would be pressed twice."""
    held: dict[str, str] = {}
    for folder, parts in zip(folders, adapters, strict=True):
        name = Path(folder).name
        for part in parts:
            if part.fingerprint in held:
                raise AdapterError(
                    f"The adapters '{held[part.fingerprint]}' and '{name}' hold the same request, and no weight fits "
                    "both: leave one out, or give the weights yourself (NAME:0.9)."
                )
            held[part.fingerprint] = name


def fitting(adapters: Sequence[tuple[str | Path, float]], interference: float | None = None) -> list[float] | None:
    """The weights for a set at weights of its own: None where these were chosen by hand, or a manifest has no curve.

    Args:
        adapters: folders and weights.
        interference: as measured; None for what it is on SmolLM2.
    """
    if len(adapters) < 2 or any(weight != 1 for _, weight in adapters):
        return None
    try:
        return fitted_weights(
            [folder for folder, _ in adapters], INTERFERENCE if interference is None else interference
        )
    except AdapterError:
        return None


def weighed(
    adapters: Iterable[str | Path | tuple[str | Path, float]], store: AdapterStore
) -> list[tuple[str | Path, float]]:
    """Adapters that are to act together, with their weights: what was given, else what fits, else 1.

    Args:
        adapters: ``"name"``, ``"name:0.5"``, ``("name", 0.5)``, or folders. One weight given, and none is fitted.

    Raises:
        SettingError: a weight that is no number.
        AdapterError, StoreError: an adapter that is unknown or broken.
    """
    wanted = [typed_adapter(adapter) if isinstance(adapter, (str, Path)) else adapter for adapter in adapters]
    if all(weight is None for _, weight in wanted):
        fitted = fitting([(store.resolve(name), 1.0) for name, _ in wanted])
        if fitted:
            return [(name, weight) for (name, _), weight in zip(wanted, fitted, strict=True)]
    return [(name, 1.0 if weight is None else weight) for name, weight in wanted]


def told(
    given: Sequence[str | Path | tuple[str | Path, float]], found: Sequence[tuple[str | Path, float]]
) -> list[str]:
    """One sentence on weights that :func:`weighed` found, or on why it found none; none where weights were given.

    Args:
        found: folders and weights.
    """
    typed = [typed_adapter(each)[1] if isinstance(each, (str, Path)) else each[1] for each in given]
    if any(weight is not None for weight in typed):
        return []
    if all(weight == 1 for _, weight in found):
        return unfitted([folder for folder, _ in found])
    named = ", ".join(weighted(Path(name).name, weight) for name, weight in found)
    return [
        f"Adapters that were trained to add up act at {named}, so that each request is forgotten as by its adapter "
        "alone; NAME:1 is full weight."
    ]


def unfitted(folders: Sequence[str | Path]) -> list[str]:
    """One sentence on a set of which some adapters could be fitted, and not all: who has no curve.

    None of sets in which no adapter has a curve, nor of stacks: who was trained on top of others acts at full weight.
    """
    lacking = []
    for folder in folders:
        manifest = read_manifest(Path(folder)) if has_manifest(Path(folder)) else None
        if manifest and manifest.on_top_of:
            return []
        with suppress(AdapterError):
            curves_inside(folder)
            continue
        lacking.append(Path(folder).name)
    if len(lacking) == len(folders) or len(folders) < 2:
        return []
    if lacking:
        return [
            f"The adapters act at full weight, since {' and '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} "
            "no curve of forgetting to fit weights by: together they may forget more than was asked for. Give the "
            "weights yourself (NAME:0.9, or NAME:1)."
        ]
    try:
        fitted_weights(folders)
    except AdapterError as error:
        return [f"The adapters act at full weight. {error}"]
    return []
