"""One forget request in, one LoRA adapter out: the main job, from top to bottom.

request -> retain rows, chosen where a pool is given -> encoded rows -> scores before -> tau -> targets of the frozen
base -> training -> the student's own answers -> training with these -> scores after -> adapter folder, written beside
the store and renamed into it.

With adapters beneath (``--on-top-of``) the scores before are theirs; teacher and reference are those of the untouched
base, or of the stack where the config's teacher says so.

Under ``accelerate launch`` every process runs all of this: they share the training steps and the questions that
are measured, and the first of them alone writes and tells.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from asu_lora.adapters.adapter_spec import several
from asu_lora.adapters.store import AdapterStore
from asu_lora.config import ForgetConfig
from asu_lora.data.examples import Example
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import SettingError
from asu_lora.forgetting.own_inputs import ready_for_sums
from asu_lora.forgetting.prepare import prepare
from asu_lora.forgetting.profile import profiled
from asu_lora.forgetting.result import ForgetResult
from asu_lora.forgetting.retain_rows import settle_retain
from asu_lora.forgetting.run import open_run
from asu_lora.forgetting.targets import add_targets, choose_teacher
from asu_lora.forgetting.training import answer_on_policy, keep_off, train_phase
from asu_lora.hardware.random_numbers import random_numbers_kept
from asu_lora.models.loading import LoadedBase
from asu_lora.progress import Progress
from asu_lora.teacher.kept_states import KeptStates
from asu_lora.teacher.tau import TauChoice
from asu_lora.training.callbacks import check_callbacks
from asu_lora.training.phases import phases


@random_numbers_kept()
def forget(
    request: ForgetRequest,
    base: str | Path | LoadedBase = "smollm2-135m",
    config: ForgetConfig | None = None,
    *,
    name: str | None = None,
    store: str | Path | AdapterStore = "adapters",
    heldout: Sequence[Example] = (),
    idk_file: str | Path | None = None,
    on_top_of: str | Path | Iterable[str | Path | tuple[str | Path, float]] = (),
    continue_from: str | Path | None = None,
    tau: TauChoice | None = None,
    resume: bool = False,
    profile: str | Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Progress | None = None,
    kept: KeptStates | None = None,
) -> ForgetResult:
    """Train one LoRA adapter that makes the base forget the request, and put it into the store.

    Args:
        request: what to forget and what to keep, or a pool to choose that from.
        base: hub id, folder or ``smollm2-135m``, or a loaded base (its precision and device then count).
        config: the settings; by default :data:`asu_lora.adding_up.ADDS_UP`, with ``on_top_of`` ``ForgetConfig()``.
        name: the adapter's name in the store, by default the request's.
        heldout: further questions to measure before and after, in neither set (paraphrases, say).
        idk_file: "I don't know" answers for the losses that use them, instead of the built-in ones.
        on_top_of: adapters that are active and frozen beneath, as :func:`asu_lora.load` takes them.
        continue_from: an adapter of the same settings whose weights the new one begins with.
        tau, kept: what another run chose for the same request and layers; what runs read of one loaded base.
        resume: go on where an interrupted run of the same name, request and settings stopped.
        profile: a folder for the seconds of each part and a Chrome trace of three training steps.
        callbacks: for the Trainer of each training phase, behind its own; under ``accelerate launch`` in every process.
        progress: hears what is being done.

    Raises:
        AsuLoraError: in one sentence; the store is then as it was, and a loaded base a plain base again.
    """
    refuse_other_types(request, config, callbacks)
    given = dict[str, Any](name=name, store=store, on_top_of=several(on_top_of), continue_from=continue_from)
    with (
        profiled(profile, progress) as (heard, traces),
        open_run(request, base, config, **given, resume=resume, progress=heard, kept=kept) as run,
    ):
        settle_retain(run, idk_file)  # chosen from a pool, or looked at for how near they are
        sets = prepare(run, idk_file)  # forget and retain: a loss and encoded rows each
        questions = run.questions(heldout)
        before = run.score(run.model, questions, "before")
        with run.teaching():  # the frozen base, smoothed and plain, once for all epochs
            add_targets(run, sets, choose_teacher(run, sets["forget"], tau))
        with run.new_adapter() as student:  # it alone trains; lock, folder of checkpoints, clean-up
            run.callbacks += [*traces, *callbacks]
            first, on_policy = phases(run.config, sets, run.process.num_processes)
            keep_off(run, student, sets)
            train_phase(run, student, sets, first)
            if on_policy:
                sets |= answer_on_policy(run, student, sets["forget"])
                train_phase(run, student, sets, on_policy.shortened(run.record.training["steps"] / first.steps))
            ready_for_sums(run, student, sets["forget"])
            return run.publish(student, before, run.score(student, questions, "after"))  # adapter -> store


def refuse_other_types(request: object, config: object, callbacks: Sequence[TrainerCallback]) -> None:
    """Say in one sentence what a request, settings and callbacks are, where rows, a dict or a class are given instead.

    Raises:
        SettingError: one of them is of another type.
    """
    if not isinstance(request, ForgetRequest):
        raise SettingError(
            f"A request is a ForgetRequest, and no {type(request).__name__}: ForgetRequest.from_rows(ROWS) or "
            "ForgetRequest.from_files(FILE) makes one."
        )
    if not isinstance(config, ForgetConfig | None):
        raise SettingError(f"The settings are a ForgetConfig(...), and no {type(config).__name__}.")
    check_callbacks(callbacks)
