"""What an evaluation found: summaries, scores and records."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from asu_lora.evaluation.intervals import set_intervals, utility_intervals
from asu_lora.evaluation.metrics.average import average
from asu_lora.evaluation.metrics.forget_efficacy import forget_efficacy
from asu_lora.evaluation.metrics.model_utility import model_utility, tofu_model_utility
from asu_lora.evaluation.question_sets import FORGET
from asu_lora.evaluation.record import Record
from asu_lora.evaluation.score import Interval, Score
from asu_lora.files import disk_errors, write_files


@dataclass
class Evaluation:
    """The scores of one model.

    Attributes:
        sets: per set, the mean of every metric; None where it could not be computed.
        records: one dict a question: set, row, answer, every metric. They hold the answers' text.
        notes: what could not be computed and why, one sentence each.
        more: further scores by name, such as forget quality.
        lm_eval: per task of lm-evaluation-harness, its metrics.
    """

    sets: dict[str, dict[str, float | None]]
    records: list[Record] = field(repr=False)
    notes: list[str] = field(default_factory=list)
    more: dict[str, Score] = field(default_factory=dict)
    lm_eval: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def model_utility(self) -> Score:
        return model_utility(self.sets)

    @property
    def forget_efficacy(self) -> Score:
        return forget_efficacy(self.sets.get(FORGET, {}))

    @property
    def average(self) -> Score:
        return average(self.model_utility, self.forget_efficacy)

    def scores(self) -> dict[str, Score]:
        """Every score by its name."""
        return {
            "MU": self.model_utility,
            "FE": self.forget_efficacy,
            "Avg": self.average,
            "TOFU MU": tofu_model_utility(self.sets),
        } | self.more

    def score_intervals(self) -> dict[str, Interval]:
        """Bootstrap intervals of the scores that are made of set means; the others bring theirs."""
        return utility_intervals(self.sets, self.records)

    def summary(self) -> dict:
        """Everything but the records, ready for JSON; intervals are 95 % bootstrap intervals over questions."""
        scores, bounds = self.scores(), self.score_intervals()
        return {
            "scores": {
                name: {
                    "value": score.value,
                    "label": score.label(name),
                    "missing": list(score.missing),
                    "interval": _listed(score.interval or bounds.get(name)),
                }
                for name, score in scores.items()
            },
            "sets": self.sets,
            "intervals": {
                name: {metric: _listed(found) for metric, found in metrics.items()}
                for name, metrics in set_intervals(self.sets, self.records).items()
            },
            "questions": {name: sum(r["set"] == name for r in self.records) for name in self.sets},
            "notes": self.notes,
        } | ({"lm_eval": self.lm_eval} if self.lm_eval else {})

    def write_records(self, path: str | Path) -> None:
        """Write the records as JSON lines.

        Raises:
            StoreError: the file can't be written.
        """
        path, text = Path(path), "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in self.records)
        with disk_errors(path, "file"):
            if path.exists() and not path.is_file():  # a pipe, /dev/stdout
                path.write_text(text, encoding="utf-8")
            else:
                write_files(path.parent, {path.name: text})


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)
