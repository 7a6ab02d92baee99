"""Weights at which adapters forget in a sum what each forgets alone: read off their manifests, without any text.

In a sum every adapter also presses on what the others have forgotten: SmolLM2's take about 0.1 nats from a forgotten
answer each, whatever they forget themselves (docs/results/adding_up.md). So a sum at full weight forgets more than was
asked for, and what is kept pays for it. Each adapter's manifest has its own curve, answer probability against weight
(``--settle-at``). With P the pressure of the others on it, adapter i gets the weight w_i at which

    ln p_i(w_i) - P = ln p_i(1),        P = interference * (k - 1) * mean(w)

for k adapters; ln p_i is interpolated between the measured weights.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

from asu_lora.adapters.forgetting_curve import forgetting_curve
from asu_lora.errors import AdapterError, SettingError

INTERFERENCE = 0.1  # nats that an adapter at weight 1 takes from another one's forgotten answers
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

    most = interference * (len(curves) - 1)
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
