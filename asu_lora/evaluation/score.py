"""A summary score that knows how much of itself could be computed."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from asu_lora.errors import DataError

Values = Mapping[str, float | None]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Score:
    """A summary over several values, some of which may be missing.

    Attributes:
        value: the score over the values that are there, None where none is.
        used: how many metrics (or values, see ``unit``) went into it.
        of: how many belong into it.
        missing: what is missing, by name.
        unit: what ``used`` and ``of`` count: "metrics", or "values" where a metric lacks in some sets only.
        interval: where the value lies with 95 % confidence over questions (:mod:`asu_lora.evaluation.intervals`).
    """

    value: float | None
    used: int
    of: int
    missing: tuple[str, ...] = ()
    unit: str = "metrics"
    interval: Interval | None = None

    def __post_init__(self):
        if not 0 <= self.used <= self.of or self.of == 0:
            raise DataError(f"A score can't use {self.used} of {self.of} {self.unit}.")
        if (self.used < self.of) != bool(self.missing) or (self.used == 0) != (self.value is None):
            raise DataError(f"A score of {self.used} of {self.of} {self.unit} must name what it lacks.")

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    def label(self, name: str) -> str:
        """``"MU"`` for a full score, ``"MU (5 of 6 metrics)"`` for a partial one."""
        return name if self.complete else f"{name} ({self.used} of {self.of} {self.unit})"


def one_value(value: float | None, lacks: str = "", interval: Interval | None = None) -> Score:
    """A score of a single value: there, or missing for want of ``lacks``."""
    if value is None:
        return Score(None, 0, 1, (lacks,), "values")
    return Score(value, 1, 1, (), "values", interval)


def harmonic_mean(values: Iterable[float]) -> float:
    """``n / sum(1 / v)``; 0 if any value is 0. :class:`DataError` for no values, a negative one, or a NaN."""
    values = [float(value) for value in values]
    if not values:
        raise DataError("The harmonic mean of no values is undefined.")
    wrong = next((value for value in values if not value >= 0), None)
    if wrong is not None:
        raise DataError(f"A harmonic mean takes values of at least 0, not {wrong}.")
    smallest = min(values)
    if smallest == 0:
        return 0.0
    # Scaled by the smallest, so that 1 / 1e-308 doesn't overflow.
    return smallest * (len(values) / math.fsum(smallest / value for value in values))


def checked_share(name: str, value: float | None) -> float | None:
    """``value`` within [0, 1] (rounding forgiven), or None; :class:`DataError` names one that lies outside."""
    if value is None:
        return None
    if not -1e-9 <= value <= 1 + 1e-9:
        raise DataError(f"{name} is {value}; a score lies in [0, 1].")
    return min(max(float(value), 0.0), 1.0)
