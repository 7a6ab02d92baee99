"""The comparison itself: each method, at each learning rate, one adapter and one evaluation.

One base is in memory, for all runs. What a run has given is in its file as soon as it is there, so that a
comparison that was stopped goes on with the next run; a method that fails is a row that says so.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from asu_lora.config import ForgetConfig
from asu_lora.data.refusals import refusals
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import SettingError, StoreError
from asu_lora.evaluation.metrics.cosine_similarity import SentenceEncoder
from asu_lora.evaluation.metrics.entailment import EntailmentModel
from asu_lora.evaluation.question_sets import QuestionSet
from asu_lora.files import disk_errors
from asu_lora.models.decoder import number_of_layers
from asu_lora.models.loading import LoadedBase, load_base
from asu_lora.progress import Progress
from asu_lora.studies.compare.grid import Run
from asu_lora.studies.compare.identity import claim, shared_identity
from asu_lora.studies.compare.results import RunResult, best_runs
from asu_lora.studies.compare.runner import Runner
from asu_lora.training.arguments import check_optimizer
from asu_lora.training.new_adapter import adapted

SETTINGS = "settings.json"


@dataclass
class Comparison:
    """The rows of a comparison's folder.

    Attributes:
        out: the folder.
        results: every run there is, Base first.
        shared: what all of them have in common, see :func:`~asu_lora.studies.compare.identity.shared_identity`.
        counts: rows of the request, questions of the sets.
        notes: said beside the scores.
    """

    out: Path
    results: list[RunResult]
    shared: dict
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def best(self) -> list[RunResult]:
        return best_runs(self.results)

    @property
    def seconds(self) -> float:
        """What all runs took together, over however many commands."""
        return sum(result.total_seconds() for result in self.results)


def compare(
    request: ForgetRequest,
    base: str | LoadedBase,
    sets: Sequence[QuestionSet],
    runs: Sequence[Run],
    out: str | Path,
    config: ForgetConfig | None = None,
    idk_file: str | Path | None = None,
    encoder: SentenceEncoder | None = None,
    nli: EntailmentModel | None = None,
    notes: Sequence[str] = (),
    records: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Make the runs that ``out`` doesn't hold yet.

    Args:
        request: what to forget and to keep, the same for all.
        sets: what every run is scored on (:func:`~asu_lora.studies.compare.questions.comparison_sets`).
        runs: methods and learning rates (:func:`~asu_lora.studies.compare.grid.plan_runs`).
        out: the comparison's folder: ``adapters/`` is a store, ``runs/`` holds a JSON file a run.
        config: the settings of every run; objective, retain loss, learning rate and eval_rows are set here.
        records: also write every question's answer and scores, ``runs/NAME.records.jsonl``. They hold text.

    Returns:
        All runs that the folder holds, those of earlier commands too.

    Raises:
        SettingError: settings that no run could have, or ``out`` holds another comparison.
        StoreError: the disk refuses, or another comparison writes to ``out``.
    """
    config, progress, out = config or ForgetConfig(), progress or Progress(), Path(out)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingError("A comparison runs in one process: start it without accelerate launch.")
    with alone(out):
        progress.stage("Loading the base")
        if not isinstance(base, LoadedBase):
            base = load_base(base, config.precision, config.device, trust_remote_code=config.trust_remote_code)
        check_settings(config, base, request, runs)
        progress.stage("Reading the base's fingerprint")
        shared = shared_identity(
            request, base, config, refusals(idk_file), sets, encoder and encoder.name, nli and nli.name
        )
        claim(out / SETTINGS, shared)
        made = Runner(request, base, sets, out, config, idk_file, encoder, nli, notes, records, shared)
        todo = [run for run in runs if not made.finished(run)]
        if len(todo) < len(runs):
            progress.note(f"{len(runs) - len(todo)} of {len(runs)} runs are in {out} already.")
        try:
            make_all(todo, made, progress)
        finally:
            progress.close()
        counts = {
            "forget rows": len(request.forget),
            "retain rows": len(request.retain),
            **{f"{questions.name} questions": len(questions.examples) for questions in sets},
        }
        return Comparison(out, made.everything(runs), shared, counts, list(notes))


def make_all(runs: Sequence[Run], maker: Runner, progress: Progress) -> None:
    """One run after another, with a note before and after each."""
    took: list[float] = []
    for number, run in enumerate(runs, start=1):
        left = (len(runs) - number + 1) * sum(took) / len(took) / 60 if took else 0
        hope = f", about {left:.0f} min left" if left >= 1 else ""
        progress.note(f"Run {number} of {len(runs)}: {run.title}{hope}.")
        started = time.monotonic()
        result = maker.make(run, Numbered(progress, f"{number}/{len(runs)} "))
        took.append(time.monotonic() - started)
        progress.note(f"{run.title}: {result.outcome()} ({took[-1]:.0f} s).")


class Numbered(Progress):
    """A listener that hears each stage with the run's number before it."""

    def __init__(self, progress: Progress, number: str):
        self.progress, self.number = progress, number

    def stage(self, name: str, total: int | None = None) -> None:
        self.progress.stage(self.number + name, total)

    def advance(self, amount: int = 1, **figures) -> None:
        self.progress.advance(amount, **figures)

    def note(self, text: str) -> None:
        self.progress.note(text)


def check_settings(config: ForgetConfig, base: LoadedBase, request: ForgetRequest, runs: Sequence[Run]) -> None:
    """Refuse at once what would fail in every run."""
    if not runs:
        raise SettingError("There is nothing to compare: name at least one method.")
    check_optimizer(config)
    config.layers(number_of_layers(base.model))
    with adapted(base.model, config):
        pass
    if not request.retain and any(run.method.retain_loss not in (None, "none") for run in runs):
        raise SettingError("The request has nothing to keep, which the retain losses need: give it retain rows.")


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """The folder to ourselves.

    Raises:
        StoreError: another process is at it, or the disk refuses, here or in the block.
    """
    with disk_errors(out, "folder"):
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise StoreError(f"Another comparison is writing to {out}: wait for it, or take another --out.") from error
        try:
            yield
        finally:
            lock.release()
