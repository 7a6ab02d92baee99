"""The training of a run: one phase after the other, and the student's own answers between them."""

from collections.abc import Mapping

from peft import PeftModel

from asu_lora.batches.collator import ON_POLICY
from asu_lora.files import disk_errors
from asu_lora.forgetting.run import ForgetRun
from asu_lora.losses import TrainingSet
from asu_lora.losses.on_policy import OnPolicyKL
from asu_lora.teacher.targets import compute_references
from asu_lora.training import on_policy
from asu_lora.training.kept_directions import MOST_INPUTS, MOST_KEPT, SKETCH, KeepOff
from asu_lora.training.phases import Phase
from asu_lora.training.student import Student
from asu_lora.training.trainer import check_finite, layer_of, train


def keep_off(run: ForgetRun, student: PeftModel, sets: Mapping[str, TrainingSet]) -> None:
    """Hold the new adapter off what the retain rows use most, where the settings ask for it."""
    share = run.config.keep_off
    if not share or "retain" not in sets or "answer" not in sets["retain"].rows.views:
        return
    run.progress.stage("What the retain rows use")
    kept = KeepOff(student, sets["retain"].rows, share, run.base.pad_id, run.frozen_layers)
    if kept.sketched:
        run.progress.note(
            f"{kept.sketched} modules read more than {MOST_INPUTS} numbers: --keep-off takes no more than {MOST_KEPT} "
            f"directions of each, the strongest of {SKETCH} tokens."
        )
    run.callbacks.insert(0, kept)  # what --orthogonal keeps off comes last, and holds exactly


def train_phase(run: ForgetRun, student: PeftModel, sets: Mapping[str, TrainingSet], phase: Phase) -> None:
    """Train the new adapter for one phase, or for what an interrupted run has left of it."""
    with disk_errors(run.store.root):
        closing = train(
            Student(
                student,
                phase.config.gradient_checkpointing,
                run.frozen_layers,
                layer_of({name: each.loss for name, each in sets.items()}),
            ),
            sets,
            phase,
            run.base,
            run.folder / phase.folder,
            progress=run.progress,
            resume=run.resume,
            callbacks=run.callbacks,
        )
    check_finite(student)
    student.eval()
    run.record.add_training(closing)


def answer_on_policy(run: ForgetRun, student: PeftModel, forget: TrainingSet) -> dict[str, TrainingSet]:
    """The student's own answers that loop, with their targets, as a further set; nothing where none does."""
    rows = on_policy.answer_on_policy(student, forget.rows, run.encoder, run.process, run.progress)
    if not rows.beside:
        return {}
    answers = TrainingSet(OnPolicyKL(), rows)
    with run.beneath.reference(student, run.config.teacher):
        compute_references(run.base, answers, frozen_layers=run.frozen_layers)
    return {ON_POLICY: answers}
