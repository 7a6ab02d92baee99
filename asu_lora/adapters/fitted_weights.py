"""Weights at which adapters forget in a sum what each forgets alone: read off what lies in their folders, without text.

In a sum every adapter also goes a little way along the others, so that a sum at full weight forgets more than was asked
for, and what is kept pays for it. How far is told by the updates D and by what each reads of its own request, which
lies in its folder (:mod:`asu_lora.adapters.own_inputs`). Adapter i acts in the sum as if alone at

    e_i = w_i + c * sum over j != i of w_j <D_j, D_i>_i / <D_i, D_i>_i,        c = 0.9

with products over the inputs of request i, and the weights are those at which every e_i is 1. One c fits requests of 12
and of 40 questions, and such about one author (docs/results/adding_up.md). Adapters made before 30 November 2026 keep
nothing of their inputs: there all directions count alike, and c is 0.75, between 0.43 of requests of 40 and some 1.2 of
12. Where several adapters are named together without a weight, and all were trained to add up (their manifests hold a
curve of forgetting), these are the weights that they get. A combined adapter counts as one, by its own update.

Where ``adapters check --forget`` measured how many nats an adapter takes from a forgotten answer of another one, that
can stand instead. With P the pressure of the others and ln p_i the curve of adapter i,

    ln p_i(w_i) - P = ln p_i(1),        P = interference * (k - 1) * mean(w)

for k adapters; a combined one counts as the n adapters in it, of weights u_i, which share its weight w. Alone they
forget under their own pressure P' = interference * (n - 1) * mean(u), so that ln p_i(w u_i) - P = ln p_i(u_i) - P', and
w is the largest of what they ask for: none of its requests is forgotten less than by it alone.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

from asu_lora.adapters.adapter_spec import typed_adapter, weighted
from asu_lora.adapters.forgetting_curve import Part, curves_inside, enough
from asu_lora.adapters.inner_products import inner_products
from asu_lora.adapters.manifest import has_manifest, read_manifest
from asu_lora.adapters.one_base import read_loras
from asu_lora.adapters.own_inputs import read_own_inputs
from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import AdapterError, SettingError

FELT = 0.9  # c: of what an adapter goes along another one on its request's inputs, what its answers feel
ALONG = 0.75  # the same where all inputs have to count alike
ALL = 50.0  # nats that take any probability above 1; thousands of requests press more, which no float can hold
LEAST = 0.05  # weight; a sum keeps every adapter that it is made of


def fitted_weights(folders: Sequence[str | Path], interference: float | None = None) -> list[float]:
    """The weight of each adapter in the sum of all of them; 1 for a single one.

    Args:
        folders: adapters with curves in their manifests. Their order doesn't matter.
        interference: nats that one adapter at weight 1 takes from another's forgotten answers, as measured; None
            to read it off the adapters' updates.

    Raises:
        AdapterError: see :func:`forgetting_curve`, :func:`~asu_lora.adapters.one_base.read_loras` and
            :func:`~asu_lora.adapters.own_inputs.read_own_inputs`.
        SettingError: an interference that is no number from 0 up.
    """
    if interference is not None and not (np.isfinite(interference) and interference >= 0):
        raise SettingError(f"The interference must be a number of nats, 0 or more, not {interference}.")
    adapters = [curves_inside(folder) for folder in folders]
    _refuse_twice(folders, adapters)
    if len(adapters) < 2 or interference == 0:
        return [1.0] * len(adapters)
    return _by_updates(folders) if interference is None else _by_pressure(adapters, interference)


def _by_updates(folders: Sequence[str | Path]) -> list[float]:
    """The weights at which each adapter goes as far along its own update as it does alone."""
    loras = read_loras(folders)
    read = [read_own_inputs(lora) for lora in loras]
    products = inner_products(loras, read).numpy()
    own = np.where(np.diag(products) > 0, np.diag(products), 1.0)  # one that changes nothing goes along none
    share = np.array([FELT if each else ALONG for each in read])
    along = share[:, None] * products / own[:, None]
    np.fill_diagonal(along, 1.0)
    return [round(float(weight), 3) for weight in _within_bounds(along)]


def _within_bounds(along: np.ndarray) -> np.ndarray:
    """w with ``along`` w = 1, (k,): what would leave [LEAST, 1] stands at its bound, the others follow."""
    weights, free = np.ones(len(along)), np.ones(len(along), dtype=bool)
    while free.any():
        rest = 1 - along[np.ix_(free, ~free)] @ weights[~free]
        weights[free] = np.linalg.lstsq(along[np.ix_(free, free)], rest, rcond=None)[0]
        beyond = free * np.maximum(weights - 1.0, LEAST - weights)
        if beyond.max() <= 0:
            break
        furthest = int(beyond.argmax())
        weights[furthest] = np.clip(weights[furthest], LEAST, 1.0)
        free[furthest] = False
    return np.clip(weights, LEAST, 1.0)


def _by_pressure(adapters: Sequence[Sequence[Part]], interference: float) -> list[float]:
    """The weights at which each forgets under a measured pressure what it forgets alone."""
    shares = [part.weight for parts in adapters for part in parts]
    most = interference * (len(shares) - 1)

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
    alone = interference * (len(parts) - 1) * float(np.mean([part.weight for part in parts]))
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
        interference: as measured; None to read it off their weights.
    """
    if len(adapters) < 2 or any(weight != 1 for _, weight in adapters):
        return None
    try:
        return fitted_weights([folder for folder, _ in adapters], interference)
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
