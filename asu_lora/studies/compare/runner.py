"""One run: its adapter, its scores, its file."""

import gc
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import AsuLoraError, StoreError
from asu_lora.evaluation.evaluate import evaluate
from asu_lora.evaluation.result import Evaluation
from asu_lora.evaluation.retain_comparison import retain_quality
from asu_lora.files import disk_errors
from asu_lora.forgetting.forget import forget
from asu_lora.hardware.memory import is_out_of_memory
from asu_lora.models.adapter_stack import Stack, load
from asu_lora.models.stack_rows import rows_of_settings
from asu_lora.progress import Progress
from asu_lora.studies.compare.grid import Run
from asu_lora.studies.compare.identity import log_identity, run_identity
from asu_lora.studies.compare.leak import worst_leak
from asu_lora.studies.compare.reference import reference_of, template_note
from asu_lora.studies.compare.results import DONE, FAILED, LEAK, QUALITY, TRAINED, RunResult, in_order, read_result
from asu_lora.studies.compare.speech import speech
from asu_lora.studies.methods import REFERENCE, method
from asu_lora.studies.privacy import Privacy
from asu_lora.teacher.kept_states import KeptStates
from asu_lora.teacher.tau import TauChoice
from asu_lora.version import __version__, library_versions

if TYPE_CHECKING:
    from asu_lora.studies.compare.compare import Comparison

ADAPTERS, RUNS = "adapters", "runs"


class Runner:
    """Makes one run after another on the comparison's base, which is a plain base again after each."""

    def __init__(self, comparison: "Comparison"):
        self.comparison = comparison
        self.folder, self.store = comparison.out / RUNS, AdapterStore(comparison.out / ADAPTERS)
        self.tau: TauChoice | None = None  # the same for every run, so chosen once
        self.kept = KeptStates()  # the base's on the rows, which every run reads
        self.privacy = Privacy(comparison.request)

    @cached_property
    def log(self) -> str | None:
        """Which log the runs are held against, if any."""
        return log_identity(self.comparison.reference, self.store.keyed)

    def file(self, run: Run) -> Path:
        """Where the run's result is kept."""
        return self.folder / f"{run.name}.json"

    def records_file(self, run: Run) -> Path:
        """Where its questions' answers and scores are kept, if they are asked for."""
        return self.folder / f"{run.name}.records.jsonl"

    def read(self, run: Run) -> RunResult | None:
        """What there is of a run, if its adapter, where it has one, is there too."""
        result = self._result(self.file(run), run)
        if result and result.adapter and result.adapter not in self.store.names():
            return None
        return result

    def finished(self, run: Run) -> bool:
        """Whether there is nothing left to do for it."""
        result = self.read(run)
        if result is None or result.state == TRAINED or result.passing:
            return False
        return not result.done or not (self.unscored(run, result) or self.unasked(result))

    def unscored(self, run: Run, result: RunResult) -> bool:
        """Whether the questions must be put, for scores or for what is compared and kept of the answers."""
        missing = self.comparison.records and not self.records_file(run).is_file()
        against = self.log is not None and QUALITY not in result.beside
        return not result.done or missing or against

    def unasked(self, result: RunResult) -> bool:
        """Whether the forget rows were not yet asked in several ways, as they shall be."""
        return self.comparison.leaks and LEAK not in result.beside

    def make(self, run: Run, progress: Progress) -> RunResult:
        """Train, unless the adapter is there already, and score."""
        result = self.read(run)
        if result and result.passing and result.adapter:  # trained, and then there was too little memory
            result.state, result.failure, result.passing = DONE if result.scores else TRAINED, None, False
        if result is None or result.state == FAILED:
            identity = run_identity(self.comparison.shared, run)
            versions = {"asu-lora": __version__, **library_versions()}
            result = RunResult(identity, run.method.name, run.lr, TRAINED, versions=versions, changes=dict(run.changes))
            if not run.method.untrained:
                self.train(run, result, progress)
            result.write(self.file(run))
        if result.state != FAILED and self.unscored(run, result):
            self.score(run, result, progress)
            result.write(self.file(run))
        if result.done and self.unasked(result):
            self.ask(run, result, progress)
            result.write(self.file(run))
        gc.collect()
        return result

    def train(self, run: Run, result: RunResult, progress: Progress) -> None:
        """Train the run's adapter into the comparison's store; ``result`` gets its name and what training gave."""
        if run.name in self.store.names():
            self.store.remove(run.name)  # of a run whose file is gone: what it was made with isn't known
        config = run.config(self.comparison.config)
        common = config.tau == self.comparison.config.tau
        with self.failing(result, "training", progress):
            made = forget(
                self.comparison.request,
                self.comparison.base,
                config,
                name=run.name,
                store=self.store,
                idk_file=self.comparison.idk_file,
                progress=progress,
                tau=self.tau if common else None,
                kept=self.kept,
            )
            record = made.record
            self.tau = (record.tau if common else None) or self.tau
            result.adapter = made.name
            result.training = {
                "tau": record.tau and record.tau.tau,
                **record.training,
                "parameters": record.counts["adapter_parameters"],
                "peak_memory_bytes": record.peak_memory,
            }

    def score(self, run: Run, result: RunResult, progress: Progress) -> None:
        """Evaluate the run's adapter on the comparison's sets."""
        comparison = self.comparison
        with self.failing(result, "evaluation", progress):
            with stacked(comparison, run, result.adapter, self.store) as stack:
                notes = [*comparison.notes, *filter(None, [template_note(stack.base, comparison.base)])]
                scored = evaluate(stack, comparison.sets, comparison.encoder, comparison.nli, notes, progress)
            result.scores, result.state = checked_summary(scored), DONE
            result.speech = speech(scored.records)
            if comparison.reference is not None:
                result.log = self.log
                result.beside[QUALITY] = retain_quality(scored.records, comparison.reference).value
            if comparison.records:
                with disk_errors(self.folder, "folder"):
                    scored.write_records(self.records_file(run))

    def ask(self, run: Run, result: RunResult, progress: Progress) -> None:
        """Ask the forget rows in several ways; what they tell in the worst."""
        comparison = self.comparison
        seed = dict(run.changes).get("seed", comparison.config.seed)
        with self.failing(result, "asking", progress), stacked(comparison, run, result.adapter, self.store) as stack:
            result.beside[LEAK] = worst_leak(stack, comparison.request, seed, progress)

    @contextmanager
    def failing(self, result: RunResult, what: str, progress: Progress) -> Iterator[None]:
        """A method that can't be trained or scored is a failed run; a disk that refuses ends the comparison.

        The error's own words are said once; the file gets what :class:`~asu_lora.studies.privacy.Privacy` lets pass.
        """
        started = time.monotonic()
        result.failure, result.passing = None, False
        try:
            yield
        except StoreError:
            raise
        except AsuLoraError as error:
            result.state, result.failure = FAILED, self.privacy.error(error)
            result.passing = error.__cause__ is not None and is_out_of_memory(error.__cause__)
            if result.failure != str(error):
                progress.note(str(error))
        result.seconds[what] = round(time.monotonic() - started, 1)

    def everything(self, runs: Sequence[Run]) -> list[RunResult]:
        """The runs asked for and those of earlier commands."""
        results = [result for run in runs if (result := self.read(run))]
        known = {self.file(run) for run in runs}
        for path in sorted(self.folder.glob("*.json")):
            if path not in known and (result := self.earlier_result(path)):
                results.append(result)
        if len({result.log for result in results if QUALITY in result.beside}) > 1:  # p-values that can't be compared
            for result in results:
                result.beside.pop(QUALITY, None)
        return in_order(results)

    def earlier_result(self, path: Path) -> RunResult | None:
        """A run that this command didn't ask for, if it is one of the same comparison."""
        with suppress(OSError, ValueError, TypeError, KeyError, AsuLoraError):
            entry = json.loads(path.read_text(encoding="utf-8"))
            result = self._result(path, Run.of(method(entry["method"]), entry["lr"], entry.get("changes", {})))
            return result if result and result.state != TRAINED else None
        return None

    def _result(self, path: Path, run: Run) -> RunResult | None:
        """The run's file, without a forget quality against another log than this comparison's.

        One of an older version may hold an error's own words: it is written anew without them.
        """
        result = read_result(path, run_identity(self.comparison.shared, run))
        if result and result.failure and self.privacy.tells(result.failure):
            result.failure = self.privacy.hidden("error")
            result.write(path)
        if result and self.log not in (None, result.log):
            result.beside.pop(QUALITY, None)
        return result


@contextmanager
def stacked(comparison: "Comparison", run: Run, adapter: str | None, store: AdapterStore) -> Iterator[Stack]:
    """The base with an adapter of the store on it, a plain base again afterwards; rows as the settings write them.

    Raises:
        SettingError: it is the reference's run, and no reference is named.
    """
    base = reference_of(comparison) if run.method.name == REFERENCE else comparison.base
    stack = load(base, [adapter] if adapter else [], store, rows=rows_of_settings(comparison.config))
    try:
        yield stack
    finally:
        stack.unload()


def checked_summary(scored: Evaluation) -> dict[str, Any]:
    """The summary, for JSON: a score that is no finite number becomes None."""
    summary = scored.summary()
    for values in summary["sets"].values():
        for metric, value in values.items():
            if value is not None and not math.isfinite(value):
                values[metric] = None
    return summary
