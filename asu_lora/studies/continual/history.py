"""A history of requests, one adapter each: train a step on what is there, evaluate, go on.

A method's run is a folder: ``adapters/`` is its store, ``run.json`` what was done so far. It is written after
every step, so that a run that was stopped goes on at the step it was in, and inside that step at its last whole
epoch (see :func:`asu_lora.forget`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from asu_lora.adapters.fitted_weights import fitted_weights
from asu_lora.adapters.store import AdapterStore
from asu_lora.config import ForgetConfig
from asu_lora.errors import SettingError, TrainingError
from asu_lora.forgetting.forget import forget
from asu_lora.forgetting.run_folder import READING
from asu_lora.models.adapter_stack import load
from asu_lora.models.loading import LoadedBase
from asu_lora.progress import Progress
from asu_lora.studies.continual.consolidate import consolidate
from asu_lora.studies.continual.step_records import ASKED, StepRecord, check_resumable, earlier_records, write_records
from asu_lora.studies.continual.step_scores import Questions, score_step
from asu_lora.studies.continual.steps import Step

MODES = ("stack", "orthogonal", "independent", "fitted", "running")
CONSOLIDATED = "folded"  # the name that stopped runs of earlier versions go on with


@dataclass(frozen=True)
class HistoryConfig:
    """How the adapters of a history stand to each other.

    Attributes:
        mode: ``stack``: each is trained on top of those before it, active and frozen. ``orthogonal``: so too, and
            kept off the directions that they read. ``independent``: each is trained on the plain base, and added.
            ``fitted``: so too, at weights at which each forgets in the sum what it forgets alone (``settle_at``).
            ``running``: one adapter, which every step trains further.
        consolidate_every: after so many steps all active adapters become one; 0 is never.
        consolidate_rank: cut that adapter to this rank; None is exact.

    Raises:
        SettingError: values that make no sense together.
    """

    mode: str = "stack"
    consolidate_every: int = 0
    consolidate_rank: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise SettingError(f"mode is '{self.mode}', which is none of {', '.join(MODES)}.")
        if self.consolidate_every < 0 or (self.consolidate_rank is not None and self.consolidate_rank < 1):
            raise SettingError("consolidate_every must be at least 0, and consolidate_rank at least 1.")
        if self.consolidate_rank is not None and not self.consolidate_every:
            raise SettingError("consolidate_rank needs consolidate_every: without it nothing is consolidated.")
        if self.mode == "fitted" and self.consolidate_every:
            raise SettingError("A fitted sum gets new weights with every step: leave consolidate_every out.")
        if self.mode == "running" and self.consolidate_every:
            raise SettingError("A running adapter is one adapter already: leave consolidate_every out.")

    def check(self, config: ForgetConfig) -> None:
        """Refuse settings of a step that don't go with this history.

        Raises:
            SettingError: orthogonality, which is a mode of the history, or fitting without curves to fit to.
        """
        if config.orthogonal:
            raise SettingError("Orthogonality is a mode of a history: give HistoryConfig('orthogonal').")
        if self.mode == "fitted" and not config.settle_at:
            raise SettingError("Weights are fitted to curves of forgetting: add --adds-up (or --settle-at).")


def run_history(
    steps: Sequence[Step],
    base: LoadedBase,
    config: ForgetConfig,
    folder: str | Path,
    history: HistoryConfig | None = None,
    questions: Questions | None = None,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    done: Callable[[list[StepRecord]], None] | None = None,
    before: StepRecord | None = None,
) -> list[StepRecord]:
    """Unlearn requests one after another, with one method.

    Args:
        steps: see :func:`~asu_lora.studies.continual.steps.read_steps`.
        base: a loaded base; a plain base again afterwards.
        config: the settings of every step.
        folder: where the adapters and the run's state go.
        questions: what to score after each step; None scores nothing.
        resume: go on where a run in this folder stopped. Requests may have been added at the end since.
        done: called with all records after every step, the first time with step 0.
        before: step 0, where another method's run has scored the same base on the same questions.

    Raises:
        TrainingError: the folder holds a run already, or one of other settings, requests or base.
        SettingError: :meth:`HistoryConfig.check`.
        AsuLoraError: whatever :func:`asu_lora.forget` raises; the steps done so far stay.
    """
    history, progress = history or HistoryConfig(), progress or Progress()
    history.check(config)
    folder = Path(folder)
    store = AdapterStore(folder / "adapters")
    check_resumable(folder, resume)
    identity = _identity(base, config, history, questions)
    if questions and steps:
        identity[ASKED] = store.keyed(questions.fingerprint(steps[0].request.retain))
    records = earlier_records(folder, identity, steps, store)
    for step in (None, *steps)[len(records) :]:
        if step is None:
            record = StepRecord(0, "before")
        else:
            progress.note(f"Step {step.number} of {len(steps)}: {step.name}")
            record = _train(step, base, config, store, history, active=records[-1].active, progress=progress)
        record.active_bytes, record.active_rank = _cost(store, record.active)
        if step is None and before is not None:
            record = before
        elif questions:
            _score(record, base, store, steps, questions, progress)
        records.append(record)
        write_records(folder, identity, records)
        if done:
            done(records)
    return records


def _identity(
    base: LoadedBase, config: ForgetConfig, history: HistoryConfig, questions: Questions | None
) -> dict[str, Any]:
    """What a run's steps must have in common, beside their requests."""
    return {
        "base": base.source.fingerprint(),
        READING: base.source.reading(),
        "precision": base.precision,
        "config": config.identity(),
        "history": asdict(history),
        "questions": questions.identity() if questions else None,
    }


def _score(
    record: StepRecord,
    base: LoadedBase,
    store: AdapterStore,
    steps: Sequence[Step],
    questions: Questions,
    progress: Progress,
) -> None:
    """Ask base + what is active after a step, and keep scores and time in its record."""
    started = time.monotonic()
    stack = load(base, record.active, store, rows=questions.rows)
    try:
        scores, _ = score_step(stack, steps, record.number, questions, progress)
    finally:
        stack.unload()
    record.kept = len(steps[-1].request.retain)
    record.scores, record.evaluation_seconds = scores.as_dict(), round(time.monotonic() - started, 1)


def _train(
    step: Step,
    base: LoadedBase,
    config: ForgetConfig,
    store: AdapterStore,
    history: HistoryConfig,
    *,
    active: list[tuple[str, float]],
    progress: Progress,
) -> StepRecord:
    """Train one step's adapter, unless it lies in the store already, and consolidate where it is due."""
    if step.name not in store.names():
        ground = active if history.mode in ("stack", "orthogonal") else []
        previous = active[-1][0] if history.mode == "running" and active else None
        config = replace(config, orthogonal=history.mode == "orthogonal") if ground else replace(config, teacher="base")
        forget(
            step.request,
            base,
            config,
            name=step.name,
            store=store,
            resume=True,
            progress=progress,
            on_top_of=ground,
            continue_from=previous,
        )
    stored = store.get(step.name)
    if not stored.manifest or not store.is_request(stored.manifest.request.fingerprint, step.request.fingerprint()):
        raise TrainingError(
            f"The store {store.root} has an adapter {step.name} of another request: choose another --out."
        )
    record = StepRecord(
        step.number,
        step.name,
        stored.name,
        store.keyed(step.request.fingerprint()),
        before=dict(stored.manifest.figures.before),
        after=dict(stored.manifest.figures.after),
        adapter_bytes=stored.size_bytes,
    )
    record.active = [*(active if history.mode != "running" else []), (step.name, 1.0)]
    started = time.monotonic()
    if history.mode == "fitted":
        record.active = at_fitted_weights([adapter for adapter, _ in record.active], store)
    if history.consolidate_every and step.number % history.consolidate_every == 0 and len(record.active) > 1:
        progress.stage("Consolidating the active adapters into one")
        name, record.fold = consolidate(
            record.active, store, f"{CONSOLIDATED}-{step.number_text}", history.consolidate_rank
        )
        record.active = [(name, 1.0)]
    # the manifest's time outlives a run that was stopped while scoring
    record.seconds = round((stored.manifest.wall_time_s or 0.0) + time.monotonic() - started, 1)
    return record


def at_fitted_weights(names: Sequence[str], store: AdapterStore) -> list[tuple[str, float]]:
    """Adapters with the weights at which each forgets in their sum what it forgets alone."""
    return list(zip(names, fitted_weights([store.resolve(name) for name in names]), strict=True))


def _cost(store: AdapterStore, active: list[tuple[str, float]]) -> tuple[int, int]:
    """Bytes and summed ranks of the active adapters."""
    found = [store.get(name) for name, _ in active]
    return sum(adapter.size_bytes for adapter in found), sum(adapter.adapter_config["r"] for adapter in found)
