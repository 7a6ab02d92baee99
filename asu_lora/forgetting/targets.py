"""The teacher of a run, and the targets that it and the frozen base give to every row."""

from collections.abc import Mapping
from dataclasses import replace

from accelerate.utils import broadcast_object_list

from asu_lora.forgetting.run import ForgetRun
from asu_lora.losses import TrainingSet
from asu_lora.models.frozen_layers import find_frozen_layers, find_frozen_layers_above
from asu_lora.teacher import tau as calibration
from asu_lora.teacher.fluency import fluency_masks
from asu_lora.teacher.targets import compute_references, passes_needed
from asu_lora.teacher.tau import TauChoice
from asu_lora.teacher.teacher import Teacher


def choose_teacher(run: ForgetRun, forget: TrainingSet, tau: TauChoice | None = None) -> Teacher | None:
    """How hot the teacher is, and where it gives way to the base; None for a loss without a teacher.

    Args:
        tau: what another run chose, to save choosing it again.
    """
    if not forget.loss.uses_teacher():
        return None
    choice = tau or _choose_tau(run, forget)
    run.record.tau = choice
    fluency = fluency_masks(forget.rows, run.base.tokenizer) if run.config.keep_speaking else None
    return Teacher(choice.tau, run.record.layers, fluency)


def add_targets(run: ForgetRun, sets: Mapping[str, TrainingSet], teacher: Teacher | None) -> None:
    """Compute what every loss compares with, and what every row enters the first adapted layer with."""
    first = run.config.first_adapted(run.base.number_of_layers)
    run.frozen_layers = find_frozen_layers(run.model, run.beneath.lowest(first))
    if teacher is not None:
        above = find_frozen_layers_above(run.frozen_layers, run.model, teacher.layers)
        teacher = replace(teacher, first_smoothed=above)
    for name, each in sets.items():
        if work := passes_needed(each, teacher, run.frozen_layers):
            run.progress.stage(f"Teacher and base on the {name} set", work)
            compute_references(run.base, each, teacher, run.frozen_layers, run.progress.advance, run.kept_of(name))


def _choose_tau(run: ForgetRun, forget: TrainingSet) -> TauChoice:
    if run.config.tau != "auto":
        return TauChoice(float(run.config.tau), [], "given by the user")
    run.progress.stage("Choosing tau")
    choice = calibration.choose_tau(
        run.base,
        forget.rows.own_answers,
        forget.rows.classes[: len(forget)],
        run.record.layers,
        progress=lambda point: run.progress.advance(1, tau=point.tau, facts=point.factual_rise),
        facts_gone=calibration.FACTS_GONE if run.config.keep_speaking else calibration.FACTS_GONE_ALONE,
    )
    run.progress.note(choice.reason)
    return broadcast_object_list([choice])[0]  # one teacher, should processes round differently
