"""What a comparison knows of each run, one JSON file a run, and which run of a method is kept."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from asu_lora.evaluation.question_sets import is_forget
from asu_lora.files import write_files
from asu_lora.reporting.tables import percent
from asu_lora.studies.compare.grid import title_of
from asu_lora.studies.methods import FIELD, OURS, PAPER, UNTRAINED

SCORES = ("MU", "FE", "Avg")
LEAK, QUALITY = "leak", "forget quality"  # what a run can be held against beside its scores
TRAINED, DONE, FAILED = "trained", "done", "failed"  # an adapter without scores; all there; why not


@dataclass
class RunResult:
    """One run: an adapter and its scores, or why there are none. It holds no text of the request.

    Attributes:
        identity: hash of everything that the run depends on; a file with another one is not this run's.
        lr: None for Base and the reference, which nobody trains.
        changes: further settings in which it differs from the comparison's; ``seed`` among them.
        speech: of ``kept`` and ``forgotten`` questions, the shares of ``gibberish`` and ``repetition``.
        beside: ``leak`` (:func:`~asu_lora.studies.compare.leak.worst_leak`) and ``forget quality`` (p of a KS test
            against a model that never saw the request), where they were asked for; None where there is none.
        log: keyed hash of the retain-only model's log that forget quality was held against.
        adapter: its name in the comparison's store, None for Base and for a failed training.
        failure: one sentence, for a failed run, that holds no text of the request.
        passing: the failure may not come again (no memory), so the next command tries once more.
        scores: :meth:`asu_lora.evaluation.result.Evaluation.summary`.
        training: tau, steps, mean loss and the like.
        seconds: of training and of evaluation.
    """

    identity: str
    method: str
    lr: float | None
    state: str
    adapter: str | None = None
    failure: str | None = None
    passing: bool = False
    scores: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    speech: dict[str, dict[str, float]] = field(default_factory=dict)
    beside: dict[str, float | None] = field(default_factory=dict)
    log: str | None = None

    @property
    def done(self) -> bool:
        return self.state == DONE

    @property
    def title(self) -> str:
        return title_of(self.method, self.lr, self.changes)

    def score(self, name: str) -> float | None:
        """MU, FE or Avg, in [0, 1]; None where it could not be computed."""
        return self.scores["scores"][name]["value"] if self.done else None

    def label(self, name: str) -> str:
        """``"MU"``, or ``"MU (5 of 6 metrics)"`` where it is no more than that."""
        return self.scores["scores"][name]["label"]

    def mean(self, questions: str, metric: str) -> float | None:
        """A metric's mean on a set."""
        return self.scores["sets"].get(questions, {}).get(metric) if self.done else None

    def gibberish_rate(self) -> float | None:
        """Share of gibberish among the answers to all questions of all sets; a set of passages alone has none."""
        if not self.done:
            return None
        sets, counts = self.scores["sets"], self.scores["questions"]
        rates = [(rate, counts[name]) for name in counts if (rate := sets[name]["gibberish"]) is not None]
        return sum(rate * count for rate, count in rates) / sum(count for _, count in rates) if rates else None

    def spoken(self, kind: str, what: str) -> float | None:
        """Share of ``gibberish``, or mean ``repetition``, of the answers to ``kept`` or ``forgotten`` questions."""
        if self.done and what == "gibberish" and not self.speech:  # a file of an earlier version
            counts = {n: c for n, c in self.scores["questions"].items() if c and is_forget(n) == (kind == "forgotten")}
            rates = [self.scores["sets"][name].get("gibberish") for name in counts]
            if not counts or None in rates:
                return None
            return sum(r * c for r, c in zip(rates, counts.values(), strict=True)) / sum(counts.values())
        return self.speech.get(kind, {}).get(what)

    @property
    def seeds(self) -> int:
        """How many runs it stands for: one."""
        return 1

    def known(self) -> set[str]:
        """What there is beside the scores."""
        return set(self.beside)

    def held_against(self, what: str) -> float | None:
        """``leak`` or ``forget quality``."""
        return self.beside.get(what) if self.done else None

    def spread(self, name: str) -> float | None:
        """Half the width of the interval of a score over seeds: one run has none."""
        return None

    def peak_bytes(self) -> int | None:
        """Memory at the fullest moment of training."""
        return self.training.get("peak_memory_bytes") or None

    def total_seconds(self) -> float:
        """Of training and evaluation together."""
        return sum(self.seconds.values())

    def outcome(self) -> str:
        """Scores in percent, or why there are none."""
        if not self.done:
            return f"failed: {self.failure}"
        return ", ".join(f"{self.label(name)} {percent(self.score(name))}" for name in SCORES)

    def write(self, path: Path) -> None:
        """Write the run's file: whole, or not at all."""
        write_files(path.parent, {path.name: json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"})


def read_result(path: Path, identity: str) -> RunResult | None:
    """The run of a file, None where there is none of this identity."""
    try:
        result = RunResult(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return result if result.identity == identity else None


def in_order(results: Iterable[RunResult]) -> list[RunResult]:
    """Base, a reference, the paper's methods in the paper's order, the field's, the default, then others.

    Of a method the lowest learning rate comes first.
    """
    places = {name: place for place, name in enumerate((*UNTRAINED, *PAPER, *FIELD, *OURS))}
    return sorted(
        results, key=lambda result: (places.get(result.method, len(places)), result.lr or 0.0, str(result.changes))
    )
