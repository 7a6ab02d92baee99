"""Weights at which adapters forget in a sum what each forgets alone: read off their manifests, without any text.

In a sum every adapter also presses on what the others have forgotten: SmolLM2's take about 0.1 nats from a forgotten
answer each, whatever they forget themselves (docs/results/adding_up.md). So a sum at full weight forgets more than was
asked for, and what is kept pays for it. Each adapter's manifest has its own curve, answer probability against weight
(``--settle-at``). With P the pressure of the others on it, adapter i gets the weight w_i at which

    ln p_i(w_i) - P = ln p_i(1),        P = 1.5 * interference * (k - 1) * mean(w)

for k adapters; ln p_i is interpolated between the measured weights. The half more is for the words: asked, a model
strays further from the true answer in company than its probability says. Where several adapters are named together
without a weight, and all of them have curves, these are the weights that they get.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

from asu_lora.adapters.adapter_spec import typed_adapter, weighted
from asu_lora.adapters.forgetting_curve import forgetting_curve
from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import AdapterError, SettingError

INTERFERENCE = 0.1  # nats that an adapter at weight 1 takes from another one's forgotten answers
WORDS = 1.5  # times that: then the words of the answers are as far from the truth as alone, and the probability nearly
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
    curves = [forgetting_curve(folder) for folder in folders]

    def weights(pressure: float) -> list[float]:
        return [max(curve.weight_for(curve.at(1.0) * math.exp(pressure)), LEAST) for curve in curves]

    most = WORDS * interference * (len(curves) - 1)
    if not most:
        return [1.0] * len(curves)
    pressure = brentq(lambda p: most * float(np.mean(weights(p))) - p, 0.0, most, xtol=1e-6)
    return [round(weight, 3) for weight in weights(pressure)]


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
    """One sentence on weights that :func:`weighed` found, none where they are those that were given or 1."""
    typed = [typed_adapter(each)[1] if isinstance(each, (str, Path)) else each[1] for each in given]
    if any(weight is not None for weight in typed) or all(weight == 1 for _, weight in found):
        return []
    named = ", ".join(weighted(Path(name).name, weight) for name, weight in found)
    return [
        f"Adapters that were trained to add up act at {named}, so that each request is forgotten as by its adapter "
        "alone; NAME:1 is full weight."
    ]
