"""Values of rows into rates with intervals, and rates into readings beside ceiling and floor."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from asu_lora.audit.estimators import clopper_pearson
from asu_lora.audit.facts import MOST
from asu_lora.audit.results import Rate, Reading
from asu_lora.evaluation.intervals import interval
from asu_lora.evaluation.score import Score

LEAST_GAP = 0.05  # between ceiling and floor; nearer ones can't tell what came back

# By row number; None where a row can't be measured (all its facts were given away).
Values = Mapping[int, float | None]


@dataclass
class Measured:
    """What one attack found on one model.

    Attributes:
        values: by figure, a value for each row; the first figure is the one that counts.
        curves: by name; the axis first.
        notes: sentences without text of the rows.
        records: what was asked and answered, for who asked for the text.
    """

    values: dict[str, dict[int, float | None]]
    curves: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)


def shares(facts: Mapping[int, float | None], **others: dict[int, float | None]) -> dict[str, dict[int, float | None]]:
    """The figures of an attack that makes a model speak: facts said, and rows that tell most of theirs."""
    leaking = {row: None if share is None else float(share > MOST) for row, share in facts.items()}
    return {"facts": dict(facts), "rows_leaking": leaking, **others}


def rate(values: Values) -> Rate | None:
    """The mean over rows with its 95 % interval: exact for yes and no, a bootstrap over rows for shares."""
    known = [value for value in values.values() if value is not None]
    if not known:
        return None
    mean, rows = fmean(known), len(known)
    if all(value in (0.0, 1.0) for value in known):
        low, high = clopper_pearson(round(sum(known)), rows)
    else:
        bounds = interval(lambda drawn: fmean(known[i] for i in drawn), rows)
        low, high = bounds or (0.0, 1.0)
        if low == high:  # every row alike: the rows not asked may differ all the same
            margin = clopper_pearson(0, rows)[1]
            low, high = max(0.0, mean - margin), min(1.0, mean + margin)
    return Rate(value=mean, low=min(low, mean), high=max(high, mean), rows=rows)


def proportion(hits: int, trials: int) -> Rate:
    """A share of independent trials, with the bounds of Clopper and Pearson."""
    low, high = clopper_pearson(hits, trials)
    return Rate(value=hits / trials if trials else 0.0, low=low, high=high, rows=trials)


def rate_of(score: Score, rows: int) -> Rate:
    """A score with its bootstrap interval; from 0 to 1 where it has none."""
    value = float(score.value or 0.0)
    low, high = score.interval or (0.0, 1.0)
    return Rate(value=value, low=min(low, value), high=max(high, value), rows=rows)


def recovered(candidate: Rate, ceiling: Rate | None, floor: Rate | None) -> float | None:
    """``(candidate - floor) / (ceiling - floor)``, cut at 0 below; None where the two are too near to tell."""
    if ceiling is None or floor is None or ceiling.value - floor.value < LEAST_GAP:
        return None
    share = (candidate.value - floor.value) / (ceiling.value - floor.value)
    return max(0.0, share) if math.isfinite(share) else None


def reading(
    figure: str, candidate: Rate, ceiling: Rate | None = None, floor: Rate | None = None, control: Rate | None = None
) -> Reading:
    """One figure of the candidate beside the others."""
    return Reading(
        figure=figure,
        candidate=candidate,
        ceiling=ceiling,
        floor=floor,
        control=control,
        recovered=recovered(candidate, ceiling, floor),
    )


def readings(
    candidate: Measured, ceiling: Measured | None, floor: Measured | None, control: Measured | None = None
) -> list[Reading]:
    """A reading a figure of the candidate."""

    def of(measured: Measured | None, figure: str) -> Rate | None:
        return rate(measured.values.get(figure, {})) if measured else None

    found = []
    for figure in candidate.values:
        own = of(candidate, figure)
        if own is not None:
            found.append(reading(figure, own, of(ceiling, figure), of(floor, figure), of(control, figure)))
    return found


def curves(axis: str, **measured: Measured | None) -> dict[str, list[float]]:
    """The curves of candidate, ceiling, floor and control under one axis, which comes first."""
    found: dict[str, list[float]] = {}
    for role, values in measured.items():
        if values is not None and axis in values.curves:
            found.setdefault(axis, values.curves[axis])
            for name, curve in values.curves.items():
                if name != axis:
                    found[f"{role} {name}" if len(values.curves) > 2 else role] = curve
    return found


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that are there."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
