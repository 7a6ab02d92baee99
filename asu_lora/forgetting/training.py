"""The training of a run: one phase after the other, and the student's own answers between them."""

from collections.abc import Mapping
from functools import partial

from peft import PeftModel

from asu_lora.batches.collator import ON_POLICY
from asu_lora.data.training_rows import TrainingRows
from asu_lora.files import disk_errors
from asu_lora.forgetting.run import ForgetRun
from asu_lora.losses import TrainingSet, losses_of
from asu_lora.losses.on_policy import OnPolicyKL
from asu_lora.teacher.targets import compute_references
from asu_lora.training import on_policy
from asu_lora.training.kept_directions import MOST_INPUTS, MOST_KEPT, SKETCH, KeepOff, adapted_layers, kept_directions
from asu_lora.training.phases import Phase
from asu_lora.training.shared_passes import SharedStudent
from asu_lora.training.student import Student
from asu_lora.training.trainer import check_finite, layer_of, train


def keep_off(run: ForgetRun, student: PeftModel, sets: Mapping[str, TrainingSet]) -> None:
    """Hold the new adapter off what the retain rows use most, where the settings ask for it."""
    share = run.config.keep_off
    if not share or "retain" not in sets or "answer" not in sets["retain"].rows.views:
        return
    run.progress.stage("What the retain rows use")
    rows, first = sets["retain"].rows, run.frozen_layers and run.frozen_layers.first
    key = ("kept directions", share, first, "answer" in rows.entries, *adapted_layers(student), *rows.answers)
    read = partial(kept_directions, student, rows, share, run.base.pad_id, run.frozen_layers)
    kept = KeepOff(student, run.once(key, read, of="retain"))
    if kept.sketched:
        run.progress.note(
            f"{kept.sketched} modules read more than {MOST_INPUTS} numbers: --keep-off takes no more than {MOST_KEPT} "
            f"directions of each, the strongest of {SKETCH} tokens."
        )
    run.callbacks.insert(0, kept)  # what --orthogonal keeps off comes last, and holds exactly


def train_phase(run: ForgetRun, student: PeftModel, sets: Mapping[str, TrainingSet], phase: Phase) -> None:
    """Train the new adapter for one phase, or for what an interrupted run has left of it."""
    layer = layer_of(losses_of(sets))
    train_student(run, Student(student, phase.config.gradient_checkpointing, run.frozen_layers, layer), sets, phase)
    student.eval()


def train_student(
    run: ForgetRun, student: Student | SharedStudent, sets: Mapping[str, TrainingSet], phase: Phase
) -> None:
    """The same of a student that knows how its passes are made."""
    with disk_errors(run.store.root):
        closing = train(
            student,
            sets,
            phase,
            run.base,
            run.folder / phase.folder,
            progress=run.progress,
            resume=run.resume,
            callbacks=run.callbacks,
        )
    check_finite(student)
    run.record.add_training(closing)
    if stopped := closing.get("stopped"):
        kept = f"{100 * stopped['forget_kept']:.0f} %"
        run.progress.note(
            f"The facts are gone after epoch {stopped['epoch']} ({kept} of the true answers' probability was left over "
            f"it): training ended at step {stopped['step']} of {stopped['of']}."
        )
    elif run.config.stop_early and not phase.may_stop and not phase.folder:
        run.progress.note(
            f"The loss {run.config.objective} never looks at the true answers, so --stop-early can't tell when they "
            "are gone."
        )


def answer_on_policy(run: ForgetRun, student: PeftModel, forget: TrainingSet) -> dict[str, TrainingSet]:
    """The student's own answers that loop, with their targets, as a further set; nothing where none does."""
    rows = on_policy.answer_on_policy(student, forget.rows, run.encoder, run.process, run.progress)
    with run.beneath.reference(student, run.config.teacher):
        return own_answers(run, rows)


def own_answers(run: ForgetRun, rows: TrainingRows) -> dict[str, TrainingSet]:
    """The set of these own answers, with the targets that the model as it is gives; nothing where there are none."""
    if not rows.beside:
        return {}
    answers = TrainingSet(OnPolicyKL(), rows)
    compute_references(run.base, answers, frozen_layers=run.frozen_layers)
    return {ON_POLICY: answers}
