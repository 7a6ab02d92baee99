"""Equal tuning: every method gets the same number of trials, on rows that the comparison doesn't score.

A method is an Optuna study in OUT/search/trials.db. Several processes may work on it at once; one that is killed loses
its trial alone, which is then begun again. Where a method has several trials, each first trains a quarter of the epochs
and answers a quarter of the questions: what is below the median of the method's earlier trials there goes no further.
"""

import hashlib
import math
import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import SettingError
from asu_lora.evaluation.question_sets import QuestionSet
from asu_lora.files import disk_errors
from asu_lora.progress import Progress
from asu_lora.studies.compare.grid import Run, title_of
from asu_lora.studies.compare.identity import SETTINGS, VERSION, as_written, claimed, run_identity, shared_identity
from asu_lora.studies.compare.results import RunResult
from asu_lora.studies.compare.runner import ADAPTERS, Runner
from asu_lora.studies.compare.search_space import Range, Space, published, search_space, settings_of_trial
from asu_lora.studies.compare.tuning import Trial, Tuning
from asu_lora.studies.methods import Method

if TYPE_CHECKING:
    import optuna

    from asu_lora.studies.compare.compare import Comparison

SEARCH, DATABASE = "search", "trials.db"
EARLY = 0.25  # of epochs and of questions, before a trial may be given up
FIRST = 2  # trials that are never given up: a median of fewer says nothing
PRUNED_FROM = 5  # trials of a method: of fewer, the quarters take longer than giving up saves
WAIT = 1.0  # seconds between looks at another process's trial


def search(
    comparison: "Comparison", tuning: Tuning, methods: Sequence[Method], progress: Progress
) -> tuple[list[Run], list[Trial]]:
    """Give each method its trials, those that the folder holds included.

    Returns:
        Each method's best run, to be made on the comparison's own rows, and every trial. A method none of whose trials
        had the memory has no run.

    Raises:
        SettingError: optuna is missing, or the folder's trials are another search's.
    """
    searcher = Searcher(comparison, tuning, progress)
    trained = [method for method in methods if not method.untrained]
    with disk_errors(comparison.out, "folder"):
        try:
            searcher.tune(trained)
        finally:
            searcher.close()
    trials = [trial for method in trained for trial in searcher.trials(method)]
    return [run for method in trained if (run := searcher.best(method))], trials


class Searcher:
    """The trials of one process: asks for the next one, makes it, tells what came of it."""

    def __init__(self, comparison: "Comparison", tuning: Tuning, progress: Progress):
        self.optuna = _optuna()
        self.tuning, self.progress = tuning, progress
        self.folder = comparison.out / SEARCH
        self.folder.mkdir(parents=True, exist_ok=True)
        self.asking = FileLock(self.folder / ".ask.lock")
        self.whole = self._runner(comparison, self.folder, tuning.sets)
        early = [replace(q, examples=q.examples[: max(2, math.ceil(EARLY * len(q.examples)))]) for q in tuning.sets]
        self.early = self._runner(comparison, self.folder / "early", early)
        self.early.kept = self.whole.kept  # the same rows of the same base
        self.version = (claimed(comparison.out / SETTINGS) or {}).get(VERSION)  # that the folder was last written by
        self.config, self.given = comparison.config, comparison.given
        self.short: set[str] = set()  # methods for which this process had too little memory
        self.worker = uuid.uuid4().hex
        self.alive = FileLock(self._lock(self.worker))
        self.alive.acquire()
        self.storage = self.optuna.storages.RDBStorage(
            f"sqlite:///{self.folder / DATABASE}", engine_kwargs={"connect_args": {"timeout": 60}}
        )

    def close(self) -> None:
        """Nothing of this process is running any more: what it leaves undone is begun again by another."""
        self.alive.release()
        with suppress(OSError):
            self._lock(self.worker).unlink()

    def tune(self, methods: Sequence[Method]) -> None:
        """Make trials of each method until all are made, by whoever: others' are waited for when no more is to do."""
        studies = [(self.study(method), method) for method in methods]
        while True:
            for study, method in studies:
                while method.name not in self.short and (trial := self.next_trial(study, method)) is not None:
                    self.make(study, trial, method)
            if not any(t.state.name == "RUNNING" for study, _ in studies for t in self._known(study)):
                break
            time.sleep(WAIT)  # then again: the other process may be gone

    def study(self, method: Method) -> "optuna.Study":
        """The method's study; it is that of these settings and rows, or refused."""
        optuna = self.optuna
        with self.asking:
            study = optuna.create_study(
                study_name=method.name,
                storage=self.storage,
                direction="maximize",
                pruner=optuna.pruners.MedianPruner(n_startup_trials=FIRST),
                load_if_exists=True,
            )
            shared, run = self.whole.comparison.shared, Run.of(method, None, self.untried(method))
            identity, earlier = run_identity(shared, run), shared | {VERSION: self.version}
            known = [run_identity(each, run) for each in (shared, *as_written(earlier))]
            if study.user_attrs.get("identity", identity) not in known:
                raise SettingError(
                    f"{self.folder} holds the trials of another search: give the same settings and rows to go on with "
                    "it, or another --out."
                )
            study.set_user_attr("identity", identity)
        return study

    def next_trial(self, study: "optuna.Study", method: Method) -> "optuna.Trial | None":
        """A trial for this process; None where all are made or in the making."""
        states = self.optuna.trial.TrialState
        with self.asking:
            for lost in self._known(study):
                if lost.state == states.RUNNING and not self._works(lost.user_attrs.get("worker")):
                    study.tell(lost.number, state=states.FAIL)  # its process is gone: the same one again
                    study.enqueue_trial(lost.params)
            known = self._known(study)
            made = sum(t.state in (states.COMPLETE, states.PRUNED, states.RUNNING) for t in known)
            if made >= self.tuning.trials:
                return None
            if not known:
                study.enqueue_trial(published(method, self.config, self.given))
            # by the number of the trial: the same one whoever asks, and however often a search was broken off
            seed = int(hashlib.sha256(f"{method.name} {self.config.seed} {len(known)}".encode()).hexdigest()[:8], 16)
            study.sampler = self.optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=max(FIRST, self.tuning.trials // 3)
            )
            trial = study.ask(_distributions(self.optuna, search_space(method)))
            trial.set_user_attr("worker", self.worker)
            trial.set_user_attr("place", made + 1)
            return trial

    def make(self, study: "optuna.Study", trial: "optuna.Trial", method: Method) -> None:
        """Train and score one trial: of many, a quarter first, and the whole if that was good enough."""
        started, states = time.monotonic(), self.optuna.trial.TrialState
        lr, tried = settings_of_trial(method, trial.params)
        changes = self.untried(method) | tried
        said = f"Trial {trial.user_attrs['place']} of {self.tuning.trials}, {title_of(method.name, lr, changes)}"
        self.progress.note(f"{said}.")
        early, pruned, whole = None, False, None
        if self.tuning.trials >= PRUNED_FROM:
            early = self.score(self.early, Run.of(method, lr, changes | {"epochs": EARLY * self.config.epochs}), trial)
            if early is not None:
                trial.report(early, step=1)
                pruned = bool(trial.should_prune())
        if not pruned and (early is not None or self.tuning.trials < PRUNED_FROM):
            whole = self.score(self.whole, Run.of(method, lr, changes), trial)
        if whole is None and not pruned:
            return self.once_more(study, trial, method, said)
        trial.set_user_attr("seconds", round(time.monotonic() - started, 1))
        if whole is None:
            study.tell(trial, state=states.PRUNED)
        else:
            study.tell(trial, whole)
        reached = early if whole is None else whole
        self.progress.note(f"{said}: Avg {100 * (reached or 0):.2f}{', given up' if pruned else ''}.")

    def once_more(self, study: "optuna.Study", trial: "optuna.Trial", method: Method, said: str) -> None:
        """Leave a trial that ran out of memory to the next command, and the method's other trials too."""
        self.short.add(method.name)
        study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
        self.progress.note(f"{said}: not enough memory. {method.name}'s trials go on with the same command.")

    def score(self, runner: Runner, run: Run, trial: "optuna.Trial") -> float | None:
        """Avg of a run, 0 where it failed, None where memory ran out; its adapter is not kept."""
        result: RunResult = runner.make(run, self.progress)
        self.early.tau = self.whole.tau = runner.tau  # the rows are the same: chosen once for both
        if result.adapter and result.adapter in runner.store.names():
            runner.store.remove(result.adapter)
        if result.passing:
            return None
        if result.failure:
            trial.set_user_attr("failure", result.failure)
        return result.score("Avg") or 0.0 if result.done else 0.0

    def trials(self, method: Method) -> list[Trial]:
        """Every trial of a method, as the records have it."""
        found = []
        for trial in self._known(self.study(method)):
            if trial.state.name in ("WAITING", "FAIL"):
                continue
            attrs = trial.user_attrs
            found.append(
                Trial(
                    method.name,
                    trial.number,
                    trial.state.name.lower(),
                    dict(trial.params),
                    trial.intermediate_values.get(1),
                    trial.value if trial.state.name == "COMPLETE" else None,
                    attrs.get("seconds", 0.0),
                    attrs.get("failure"),
                )
            )
        return found

    def best(self, method: Method) -> Run | None:
        """The run with the settings of the method's best trial; of equal ones the first. None where none was scored."""
        scored = [trial for trial in self.trials(method) if trial.score is not None]
        if not scored:
            return None
        best = max(scored, key=lambda trial: (trial.score, -trial.number))
        lr, tried = settings_of_trial(method, best.settings)
        return Run.of(method, lr, self.untried(method) | tried)

    def untried(self, method: Method) -> dict[str, Any]:
        """The weights of the method's paper that no trial varies."""
        space = search_space(method)
        return {name: v for name, v in method.weights(self.config, self.given).items() if name not in space}

    def _runner(self, comparison: "Comparison", out: Path, sets: Sequence[QuestionSet]) -> Runner:
        own = replace(comparison, request=self.tuning.request, sets=sets, out=out, shared={}, results=[], notes=())
        own.records, own.leaks, own.reference = False, False, None  # a trial needs its scores alone
        with self.asking:  # the first process makes the key
            own.shared = shared_identity(own, AdapterStore(comparison.out / ADAPTERS).keyed)
        return Runner(own)

    def _known(self, study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
        return study.get_trials(deepcopy=False)

    def _lock(self, worker: str) -> Path:
        return self.folder / f".worker-{worker}.lock"

    def _works(self, worker: str | None) -> bool:
        """Whether the process of a trial is alive: it holds a lock as long as it is."""
        if worker is None or worker == self.worker:
            return worker is not None
        try:
            FileLock(self._lock(worker), timeout=0).acquire().lock.release()
        except Timeout:
            return True
        with suppress(OSError):
            os.unlink(self._lock(worker))
        return False


def _distributions(optuna: Any, space: Space) -> dict[str, Any]:
    of = optuna.distributions
    return {
        name: of.FloatDistribution(values.low, values.high, log=True)
        if isinstance(values, Range)
        else of.CategoricalDistribution(values)
        for name, values in space.items()
    }


def _optuna() -> Any:
    """The library, quiet.

    Raises:
        SettingError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise SettingError("--search needs optuna, which is not installed: 'pip install asu-lora[search]'.") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
