"""Bootstrap intervals over questions: how far a figure could move had other questions of the kind been asked.

Every set's rows are drawn again with replacement, by themselves, and the figure is computed anew each time. The
same records give the same intervals.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap

from asu_lora.evaluation.metrics.average import average
from asu_lora.evaluation.metrics.forget_efficacy import forget_efficacy
from asu_lora.evaluation.metrics.model_utility import model_utility, tofu_model_utility
from asu_lora.evaluation.question_sets import FORGET
from asu_lora.evaluation.record import Record
from asu_lora.evaluation.score import Interval, Score, one_value
from asu_lora.evaluation.set_means import aggregate, row_values

RESAMPLES, LEVEL, SEED = 1000, 0.95, 0

Draws = Sequence[np.ndarray]  # per sample, the numbers of the rows that were drawn, (rows,)


def interval(statistic: Callable[..., float], *sizes: int, seed: int = SEED) -> Interval | None:
    """The 95 % percentile interval of a figure of one or several samples.

    Args:
        statistic: takes one array of row numbers a sample, and gives the figure of those rows.
        sizes: how many rows each sample has; None comes back where one has fewer than two.
    """
    return intervals(lambda draws: [statistic(*draws)], sizes, seed)[0]


def with_interval(statistic: Callable[..., float], *samples: Sequence[float]) -> Score:
    """A score of one or several samples of numbers, with its interval."""
    arrays = [np.asarray(sample, dtype=np.float64) for sample in samples]
    bounds = interval(
        lambda *drawn: statistic(*(array[rows].tolist() for array, rows in zip(arrays, drawn, strict=True))),
        *map(len, samples),
    )
    return one_value(statistic(*samples), interval=bounds)


def mean_interval(values: np.ndarray) -> Interval | None:
    """The same of a mean of ``values`` (rows,): all draws are averaged at once."""
    if len(values) < 2:
        return None
    found = _bootstrap((values,), lambda drawn, axis=-1: drawn.mean(axis=axis), SEED)
    return (float(found.low), float(found.high)) if np.isfinite([found.low, found.high]).all() else None


def intervals(
    statistics: Callable[[Draws], Sequence[float]], sizes: Sequence[int], seed: int = SEED
) -> list[Interval | None]:
    """The same for several figures of the same draws; None for one that is no number in some draw."""
    if not sizes or min(sizes) < 2:
        return [None] * len(statistics([np.arange(size) for size in sizes]))

    def of_batch(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        """Samples of shape ``(draws, rows)`` to figures of shape ``(figures, draws)``; a single draw has no axis."""
        batch = [np.atleast_2d(sample) for sample in samples]
        found = np.array([statistics(draws) for draws in zip(*batch, strict=True)]).T
        return found if samples[0].ndim > 1 else found[:, 0]

    found = _bootstrap(tuple(np.arange(size) for size in sizes), of_batch, seed)
    return [
        (float(low), float(high)) if np.isfinite([low, high]).all() else None
        for low, high in zip(found.low, found.high, strict=True)
    ]


def _bootstrap(samples: tuple[np.ndarray, ...], statistic: Callable[..., np.ndarray], seed: int) -> Any:
    """scipy's percentile interval: ``low`` and ``high``, of every figure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # a draw without a figure: no interval comes back
        return bootstrap(
            samples,
            statistic,
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval


class SetColumns:
    """One set's values, metric by metric, ready to be drawn from.

    Args:
        metrics: those that the set has a figure of.
    """

    def __init__(self, name: str, records: Sequence[Record], metrics: Sequence[str]):
        self.rows = [record for record in records if record["set"] == name]
        self.columns: dict[str, np.ndarray] = {}
        for metric in metrics:
            values = row_values(self.rows, metric)
            if values is not None:
                rule = aggregate(metric, name)  # a mean of what it makes of each row alone
                alone = iter([rule([value]) for value in values])
                self.columns[metric] = np.array([next(alone) if metric in row else np.nan for row in self.rows])

    def means(self, drawn: np.ndarray) -> dict[str, float | None]:
        """The set's figures over the rows that were drawn; None where only passages were, which have no answer."""
        found: dict[str, float | None] = {}
        for metric, values in self.columns.items():
            there = values[drawn]
            there = there[~np.isnan(there)]
            found[metric] = float(there.mean()) if there.size else None
        return found

    def intervals(self) -> dict[str, Interval]:
        """By metric; empty for a set of fewer than two rows."""
        found = {}
        for metric, values in self.columns.items():
            there = values[~np.isnan(values)]
            if not np.isfinite(there).all():
                continue
            bounds = mean_interval(there)
            if bounds is not None:
                found[metric] = bounds
        return found


def known(values: Mapping[str, float | None]) -> list[str]:
    """The metrics that are there."""
    return [metric for metric, value in values.items() if value is not None]


def set_intervals(
    sets: Mapping[str, Mapping[str, float | None]], records: Sequence[Record]
) -> dict[str, dict[str, Interval]]:
    """Intervals of every set's figures."""
    return {name: SetColumns(name, records, known(values)).intervals() for name, values in sets.items()}


def utility_intervals(sets: Mapping[str, Mapping[str, float | None]], records: Sequence[Record]) -> dict[str, Interval]:
    """Intervals of MU, FE, Avg and TOFU's MU; of those that can be had."""
    columns = {name: SetColumns(name, records, known(values)) for name, values in sets.items()}
    columns = {name: found for name, found in columns.items() if len(found.rows) > 1}

    def scores(draws: Draws) -> dict[str, Score]:
        return _scores({name: found.means(rows) for (name, found), rows in zip(columns.items(), draws, strict=True)})

    sizes = [len(found.rows) for found in columns.values()]
    used = {name: score.used for name, score in scores([np.arange(size) for size in sizes]).items()}
    # without a set of one row, which can't be drawn from, it would be another figure
    there = [name for name, score in _scores(sets).items() if score.used and score.used == used[name]]

    def values(draws: Draws) -> list[float]:
        """NaN for a score that lacks metrics in this draw alone."""
        found = scores(draws)
        return [_number(found[name].value if found[name].used == used[name] else None) for name in there]

    found = intervals(values, sizes) if there else []
    return {name: bounds for name, bounds in zip(there, found, strict=True) if bounds is not None}


def _scores(means: Mapping[str, Mapping[str, float | None]]) -> dict[str, Score]:
    """MU, FE, Avg and TOFU's MU of the sets' figures."""
    utility, efficacy = model_utility(means), forget_efficacy(means.get(FORGET, {}))
    both = {"MU": utility, "FE": efficacy, "Avg": average(utility, efficacy)}
    return both | {"TOFU MU": tofu_model_utility(means)}


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
