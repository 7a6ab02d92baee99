"""The rows of a table: one run, or the runs of one method and settings with several seeds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any

from scipy.stats import t

from asu_lora.studies.compare.grid import title_of
from asu_lora.studies.compare.results import DONE, FAILED, QUALITY, RunResult, in_order

LEVEL = 0.95


@dataclass(frozen=True)
class SeedRow:
    """Runs that differ in their seed alone; what it says of a score is the mean over them.

    One failed run makes the row a failed one: the mean of those that happened to go well would flatter it.
    """

    results: tuple[RunResult, ...]

    @property
    def seeds(self) -> int:
        """How many runs its means are of."""
        return len(self.results)

    @property
    def first(self) -> RunResult:
        """The failed run where there is one, else the first."""
        return next((result for result in self.results if not result.done), self.results[0])

    @property
    def method(self) -> str:
        return self.first.method

    @property
    def lr(self) -> float | None:
        return self.first.lr

    @property
    def changes(self) -> dict[str, Any]:
        """Settings of all its runs that are not the comparison's, without the seed."""
        return {name: value for name, value in self.first.changes.items() if name != "seed"}

    @property
    def title(self) -> str:
        return title_of(self.method, self.lr, self.changes)

    @property
    def done(self) -> bool:
        return self.first.done

    @property
    def state(self) -> str:
        return DONE if self.done else FAILED

    @property
    def failure(self) -> str | None:
        return self.first.failure

    @property
    def adapter(self) -> str | None:
        return self.first.adapter

    @property
    def training(self) -> dict[str, Any]:
        return self.first.training

    def score(self, name: str) -> float | None:
        """The mean of MU, FE or Avg over the seeds, in [0, 1]."""
        return mean_of(result.score(name) for result in self.results) if self.done else None

    def label(self, name: str) -> str:
        return self.first.label(name)

    def spread(self, name: str) -> float | None:
        """Half the width of the 95 % interval of the mean over seeds (Student's t); None for one seed."""
        values = [result.score(name) for result in self.results]
        known = [value for value in values if value is not None]
        if not self.done or len(known) < max(2, len(values)):
            return None
        return float(t.ppf((1 + LEVEL) / 2, len(known) - 1)) * stdev(known) / math.sqrt(len(known))

    def mean(self, questions: str, metric: str) -> float | None:
        return mean_of(result.mean(questions, metric) for result in self.results) if self.done else None

    def gibberish_rate(self) -> float | None:
        return mean_of(result.gibberish_rate() for result in self.results) if self.done else None

    def spoken(self, kind: str, what: str) -> float | None:
        return mean_of(result.spoken(kind, what) for result in self.results) if self.done else None

    def known(self) -> set[str]:
        """What there is beside the scores of any of its runs."""
        return {name for result in self.results for name in result.beside}

    def held_against(self, what: str) -> float | None:
        """The mean over the seeds; of a p-value the median, since their mean is none."""
        values = [result.held_against(what) for result in self.results] if self.done else []
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        return median(known) if what == QUALITY else fmean(known)

    def peak_bytes(self) -> int | None:
        """Of the run that took the most."""
        return max((found for result in self.results if (found := result.peak_bytes())), default=None)

    @property
    def seconds(self) -> dict[str, float]:
        """The mean over the seeds, by part."""
        parts = dict.fromkeys(part for result in self.results for part in result.seconds)
        return {part: fmean(result.seconds.get(part, 0.0) for result in self.results) for part in parts}

    def total_seconds(self) -> float:
        """The mean over the seeds of what a run took."""
        return fmean(result.total_seconds() for result in self.results)


Row = RunResult | SeedRow


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean; None where one is missing."""
    found = list(values)
    known = [value for value in found if value is not None]
    return fmean(known) if known and len(known) == len(found) else None


def seed_rows(results: Iterable[RunResult]) -> list[SeedRow]:
    """The runs, those that differ in nothing but their seed in one row."""
    groups: dict[tuple, list[RunResult]] = {}
    for result in in_order(results):
        others = tuple(sorted((key, repr(value)) for key, value in result.changes.items() if key != "seed"))
        groups.setdefault((result.method, result.lr, others), []).append(result)
    return [SeedRow(tuple(group)) for group in groups.values()]


def best_rows(results: Sequence[RunResult]) -> list[SeedRow]:
    """Each method's row with the highest mean Avg (of equal ones the first), a failed one where all have failed."""
    kept: dict[str, SeedRow] = {}
    for row in seed_rows(results):
        before = kept.get(row.method)
        if before is None or merit(row) > merit(before):
            kept[row.method] = row
    return list(kept.values())


def merit(row: Row) -> float:
    """Avg, below 0 for a failed row."""
    return -1.0 if not row.done else row.score("Avg") or 0.0
