"""The comparison itself: each method, at each learning rate, one adapter and one evaluation.

All runs share one base in memory. Each run's file is written as soon as the run ends, so a stopped comparison goes on
with the next run, and several processes share the runs of a folder. A method that fails is a row that says so.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asu_lora.config import ForgetConfig
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import SettingError
from asu_lora.evaluation.metrics.cosine_similarity import SentenceEncoder
from asu_lora.evaluation.metrics.entailment import Judge
from asu_lora.evaluation.question_sets import QuestionSet
from asu_lora.evaluation.record import Record
from asu_lora.evaluation.retain_comparison import check_questions
from asu_lora.files import check_writable, disk_errors
from asu_lora.losses import own_settings
from asu_lora.models.loading import LoadedBase, load_base
from asu_lora.progress import Progress
from asu_lora.studies.compare.grid import Run, seeded, weighted
from asu_lora.studies.compare.identity import SETTINGS, claim, shared_identity
from asu_lora.studies.compare.reference import with_reference
from asu_lora.studies.compare.results import RunResult
from asu_lora.studies.compare.rows import SeedRow, best_rows
from asu_lora.studies.compare.runner import Runner
from asu_lora.studies.compare.search import search
from asu_lora.studies.compare.sharing import alone, make_all
from asu_lora.studies.compare.tuning import Trial, Tuning
from asu_lora.training.arguments import check_optimizer
from asu_lora.training.new_adapter import adapted


@dataclass
class Comparison:
    """One comparison: what all its runs share, and the rows that its folder holds.

    Attributes:
        request: what to forget and to keep.
        base: the loaded base; a plain base again after each run.
        sets: what every run is scored on (:func:`~asu_lora.studies.compare.questions.comparison_sets`).
        out: the folder: ``adapters/`` is a store, ``runs/`` holds a JSON file a run.
        config: the settings of every run; a run sets objective, retain loss, learning rate and eval_rows.
        idk_file: own "I don't know" answers, one a line.
        encoder, nli: models behind two of the scores.
        notes: said beside the scores.
        records: also write every question's answer and scores, ``runs/NAME.records.jsonl``. They hold text.
        leaks: also ask the forget rows in several ways (:mod:`~asu_lora.studies.compare.leak`).
        reference: records of a model that never saw the request (:func:`asu_lora.evaluation.retain_log.read_log`).
        reference_base: a model that never saw the request, name or folder: a row of its own, only scored.
        given: settings that the methods' papers don't replace (:meth:`~asu_lora.studies.methods.Method.weights`).
        trials: of the search before it, if there was one.
        shared: what identifies it, see :func:`~asu_lora.studies.compare.identity.shared_identity`.
        results: every run there is, Base first.
    """

    request: ForgetRequest
    base: LoadedBase
    sets: Sequence[QuestionSet]
    out: Path
    config: ForgetConfig
    idk_file: str | Path | None = None
    encoder: SentenceEncoder | None = None
    nli: Judge | None = None
    notes: Sequence[str] = ()
    records: bool = False
    leaks: bool = False
    reference: Sequence[Record] | None = None
    reference_base: str | None = None
    given: Collection[str] = ()
    trials: list[Trial] = field(default_factory=list)
    shared: dict[str, Any] = field(default_factory=dict)
    results: list[RunResult] = field(default_factory=list)

    @property
    def best(self) -> list[SeedRow]:
        """The runs of each method with the highest Avg, the mean over seeds."""
        return best_rows(self.results)

    @property
    def seconds(self) -> float:
        """What all runs took together, over however many commands."""
        searched = sum(trial.seconds for trial in self.trials)
        return searched + sum(result.total_seconds() for result in self.results)

    @property
    def counts(self) -> dict[str, int]:
        """Rows of the request, questions of the sets."""
        return {
            "forget rows": len(self.request.forget),
            "retain rows": len(self.request.retain),
            **{f"{questions.name} questions": len(questions.examples) for questions in self.sets},
        }


def compare(
    request: ForgetRequest,
    base: str | LoadedBase,
    sets: Sequence[QuestionSet],
    runs: Sequence[Run],
    out: str | Path,
    config: ForgetConfig | None = None,
    *,
    idk_file: str | Path | None = None,
    encoder: SentenceEncoder | None = None,
    nli: Judge | None = None,
    notes: Sequence[str] = (),
    records: bool = False,
    leaks: bool = False,
    reference: Sequence[Record] | None = None,
    reference_base: str | None = None,
    given: Collection[str] = (),
    seeds: Sequence[int] = (),
    tuning: Tuning | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Make the runs that ``out`` doesn't hold yet.

    Args:
        runs: methods and learning rates (:func:`~asu_lora.studies.compare.grid.plan_runs`).
        seeds: make every run with each of these; by default with the config's.
        tuning: find each method's settings first, in the place of the learning rates of ``runs``.
        base: a name or a loaded base. The other arguments are those of :class:`Comparison`.

    Returns all runs that the folder holds, those of earlier commands too.

    Raises:
        SettingError: settings that no run could have, or ``out`` holds another comparison.
        StoreError: the disk refuses.
        DataError: ``reference`` is of other questions.
    """
    config, progress, out = config or ForgetConfig(), progress or Progress(), Path(out)
    refuse_at_once(out, sets, reference)
    runs = with_reference(runs, reference_base)
    seeded(runs, seeds, config.seed)  # refuses seeds, before anything is loaded
    others = (sets, out, config, idk_file, encoder, nli, notes, records, leaks, reference, reference_base, given)
    trials: list[Trial] = []
    if tuning is not None:
        base = _loaded(base, config, progress)
        runs, trials = tuned_runs(Comparison(request, base, *others), tuning, runs, progress)
    runs = seeded(weighted(runs, config, given), seeds, config.seed)
    with disk_errors(out, "folder"):
        comparison = Comparison(request, _loaded(base, config, progress), *others, trials)
        check_settings(comparison, runs)
        progress.stage("Reading the base's fingerprint")
        runner = Runner(comparison)
        with alone(out):
            comparison.shared = shared_identity(comparison, runner.store.keyed)
            claim(out / SETTINGS, comparison.shared, runner.folder, shared_identity(comparison, lambda plain: plain))
        try:
            make_all(runs, runner, progress)
        finally:
            progress.close()
        comparison.results = runner.everything(runs)
        return comparison


def refuse_at_once(out: Path, sets: Sequence[QuestionSet], reference: Sequence[Record] | None) -> None:
    """Refuse what needs no base to be told: another process, a folder that can't be written, another model's log."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingError("A comparison runs in one process: start it without accelerate launch.")
    check_writable(out)
    if reference is not None:
        check_questions(reference, sets)


def tuned_runs(
    comparison: Comparison, tuning: Tuning, runs: Sequence[Run], progress: Progress
) -> tuple[list[Run], list[Trial]]:
    """The runs with what the search finds in the place of their learning rates, and its trials.

    A method with settings of its own stays as it is.
    """
    check_settings(comparison, runs)
    tuned = [run.method for run in runs if not run.method.settings]
    found, trials = search(comparison, tuning, list(dict.fromkeys(tuned)), progress)
    return [run for run in runs if run.method.untrained or run.method.settings] + found, trials


def _loaded(base: str | LoadedBase, config: ForgetConfig, progress: Progress) -> LoadedBase:
    if isinstance(base, LoadedBase):
        return base
    progress.stage("Loading the base")
    return load_base(base, config.precision, config.device, trust_remote_code=config.trust_remote_code)


def check_settings(comparison: Comparison, runs: Sequence[Run]) -> None:
    """Refuse at once what would fail in every run."""
    if not runs:
        raise SettingError("There is nothing to compare: name at least one method.")
    config, base = comparison.config, comparison.base
    check_optimizer(config, base.device)
    config.layers(base.number_of_layers)
    with adapted(base.model, config):
        pass
    for run in runs:
        if run.lr is not None:
            own_settings(run.method.objective or "", run.method.retain_loss or "", run.config(config).loss_settings)
    if not comparison.request.retain and any(run.method.retain_loss not in (None, "none") for run in runs):
        raise SettingError("The request has nothing to keep, which the retain losses need: give it retain rows.")
