"""Training on ``transformers.Trainer``: accelerate, checkpoints, resuming, TensorBoard and W&B come with it."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, TrainerState

from asu_lora.batches.collator import ON_POLICY, Collator, Totals
from asu_lora.batches.forget_retain_pairs import ForgetRetainPairs
from asu_lora.batches.token_budget import tokens_of_training
from asu_lora.config import ForgetConfig
from asu_lora.errors import NotEnoughMemory, TrainingError
from asu_lora.hardware.memory import FreedMemory, is_out_of_memory
from asu_lora.losses import Loss, TrainingSet, losses_of, needs_of
from asu_lora.losses.forget.pdu import PDU
from asu_lora.models.loading import LoadedBase
from asu_lora.models.output_head import FrozenHead
from asu_lora.models.packing_trial import packing_of
from asu_lora.progress import Progress
from asu_lora.training.arguments import training_arguments
from asu_lora.training.attacker import Attacker
from asu_lora.training.callbacks import EpochCallback, ProgressCallback
from asu_lora.training.checkpoints import closing_figures, last_checkpoint
from asu_lora.training.dual import DualCoefficient
from asu_lora.training.phases import Phase
from asu_lora.training.shared_passes import SharedStudent
from asu_lora.training.step_losses import add_totals, views_of
from asu_lora.training.stop_early import StopEarly
from asu_lora.training.student import Student

TOO_LITTLE_MEMORY = (
    "There is not enough memory for a training step: lower --micro-batch-tokens or add --gradient-checkpointing."
)


class UnlearningTrainer(Trainer):
    """Trainer whose loss is forget_coeff * forget loss + retain_coeff * retain loss (ASU, eq. 9).

    Args:
        student: the base with its adapter; only the adapter is trained, saved and loaded.
        losses: the loss of each set: ``forget``, perhaps ``retain`` and ``on_policy``.
        coefficients: the weight of each set's loss.
        head: the base's output head.
    """

    def __init__(
        self,
        student: Student | SharedStudent,
        losses: Mapping[str, Loss],
        coefficients: dict[str, float],
        head: FrozenHead,
        **kwargs: Any,
    ):
        super().__init__(model=student, **kwargs)
        # Nothing must divide by the number of batches: the totals do. Before transformers 5.20 Trainer divides
        # unless its model takes the totals, and before 5.6 accelerate divides once more.
        self.loss_is_scaled_for_ga = self.model_accepts_loss_kwargs = True
        self.accelerator.gradient_accumulation_steps = 1
        self.student = student
        self.losses = losses
        self.coefficients = coefficients
        self.head = head
        self.stopper: StopEarly | None = None
        self.attacker: Attacker | None = None
        self.freed = FreedMemory()
        self.sums: dict[str, torch.Tensor] = {}
        self.counted = 0
        self.remove_callback(PrinterCallback)  # the library never prints

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The batches of an optimizer step, and in the place of Trainer's count of labels the step's totals."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.counted += 1
        return batches, self.step_totals([batch["totals"] for batch in batches])

    def step_totals(self, totals: Sequence[Totals]) -> Totals:
        """Rows and tokens of a whole step: all its batches, on all processes.

        Every loss is a sum divided by one of these: it is the same however the step is shared out.
        """
        mine = add_totals(totals)
        return add_totals(gather_object([mine])) if self.accelerator.num_processes > 1 else mine

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.attacker is not None:
            self.attacker.step()
        *others, last = inputs["micro_batches"]
        total = 0
        for micro_batch in others:
            with self.accelerator.no_sync(model):  # processes exchange gradients once a step
                total += super().training_step(model, micro_batch, num_items_in_batch)
            self._passed()
        total += super().training_step(model, last, num_items_in_batch)
        self._passed()
        return total

    def _passed(self) -> None:
        self.student.pass_back()
        if self.args.use_cpu:
            self.freed.passed()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # through the model that Trainer wrapped, so that gradients are averaged over processes
        hidden = model(inputs["passes"])
        views = views_of(hidden, inputs, self.head, num_items_in_batch)
        parts = {name: self.losses[name](each) for name, each in views.items()}
        if self.stopper is not None:
            self.stopper.see(views["forget"]["answer"] if "forget" in views else None, parts.get("retain"))
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        # accelerate averages gradients over processes, and each holds a share of the step's sum
        loss = self.accelerator.num_processes * sum(self.coefficients[name] * value for name, value in parts.items())
        return (loss, hidden) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self.counted:
            nothing = torch.zeros((), device=self.args.device)
            shares = {name: self.sums.get(name, nothing) for name in self.losses}  # the same names in all processes
            logs |= {f"{name}_loss": (self._summed(share) / self.counted).item() for name, share in shares.items()}
            self.sums, self.counted = {}, 0
        super().log(logs, *args, **kwargs)

    def _summed(self, share: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(share, "sum") if self.accelerator.num_processes > 1 else share

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        if self.args.should_save:
            self.student.save(str(folder))
            if self.attacker is not None:
                self.attacker.save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        self.student.load(resume_from_checkpoint)
        if self.attacker is not None:
            self.attacker.load(Path(resume_from_checkpoint))


def train(
    student: Student | SharedStudent,
    sets: Mapping[str, TrainingSet],
    phase: Phase,
    base: LoadedBase,
    folder: Path,
    *,
    progress: Progress,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train the student's adapter in place, for one phase of a run.

    Args:
        sets: the rows, references computed, and their losses.
        folder: of this phase's checkpoints.
        resume: go on from the last checkpoint in the folder, if there is one.
        callbacks: further ones of Trainer's.

    Returns:
        Trainer's closing figures (steps, seconds, mean loss), and where it was ended early what was seen then.

    Raises:
        TrainingError: the loss turned NaN.
        NotEnoughMemory: of the device.
    """
    config = phase.config
    pairs = pairs_of(sets, config, phase.seed)
    trainer = UnlearningTrainer(
        student,
        losses_of(sets),
        coefficients(config),
        base.head,
        args=training_arguments(config, folder, base.device, base.compute_dtype, checkpoints=True),
        train_dataset=pairs,
        data_collator=collator_of(sets, config, base, student.packs),
        callbacks=[EpochCallback(pairs), ProgressCallback(progress, phase.label), *callbacks],
    )
    checkpoint = last_checkpoint(folder) if resume else None
    dual, stopper = add_dual(trainer), add_stopper(trainer, phase)
    if checkpoint:
        if dual:
            dual.restore(checkpoint)
        if stopper:
            stopper.restore(checkpoint)
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        # after part of an epoch, Trainer would do one step more
        if state.global_step >= state.max_steps or (stopper and stopper.stopped):
            trainer._load_from_checkpoint(str(checkpoint))
            return closing_figures(state, stopped=stopper.stopped if stopper else None)
    if config.attacker_lr:
        trainer.attacker = Attacker(trainer, config.attacker_lr, len(sets["forget"]), phase.seed)
    try:
        with student.ready(), trainer.attacker.beside() if trainer.attacker else nullcontext():
            result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise NotEnoughMemory(TOO_LITTLE_MEMORY) from error
    return closing_figures(trainer.state, result.metrics["train_runtime"], stopper.stopped if stopper else None)


def add_dual(trainer: UnlearningTrainer) -> DualCoefficient | None:
    """What moves the retain loss's weight, where the forget loss has a constraint on it."""
    loss = trainer.losses["forget"]
    if not isinstance(loss, PDU) or "retain" not in trainer.losses:
        return None
    nothing = torch.zeros((), device=trainer.args.device)
    dual = DualCoefficient(
        loss, trainer.coefficients, lambda: trainer._summed(torch.as_tensor(trainer.sums.get("retain", nothing)))
    )
    trainer.callback_handler.callbacks.insert(0, dual)  # before those that tell what was logged
    return dual


def add_stopper(trainer: UnlearningTrainer, phase: Phase) -> StopEarly | None:
    """What ends the phase once the facts are gone, where it may be ended."""
    if not phase.may_stop:
        return None
    trainer.stopper = StopEarly(trainer._summed)
    trainer.add_callback(trainer.stopper)
    return trainer.stopper


def layer_of(of: Mapping[str, Loss]) -> int | None:
    """The decoder layer that these losses look at; None where the final states are enough."""
    return next((loss.layer for loss in of.values() if loss.layer is not None), None)


def pairs_of(sets: Mapping[str, TrainingSet], config: ForgetConfig, seed: int) -> ForgetRetainPairs:
    """The forget rows, the retain rows beside each, and their doses."""
    return ForgetRetainPairs(
        len(sets["forget"]),
        len(sets.get("retain", ())),
        config.retain_per_forget,
        seed,
        retain_dose=config.retain_dose,
        forget_dose=config.forget_dose,
        in_other_words=sets["forget"].rows.in_other_words,
    )


def coefficients(config: ForgetConfig) -> dict[str, float]:
    """The weight of each set's loss; the student's own answers are forget rows too."""
    return {"forget": config.forget_coeff, "retain": config.retain_coeff, ON_POLICY: config.forget_coeff}


def collator_of(
    sets: Mapping[str, TrainingSet], config: ForgetConfig, base: LoadedBase, packs: bool = True
) -> Collator:
    """The collator of a run's sets, with the micro-batches and the packing that suit the device."""
    return Collator(
        {name: each.rows for name, each in sets.items()},
        needs_of(losses_of(sets)),
        base.pad_id,
        config.micro_batch_tokens or tokens_of_training(base.device),
        packing_of(base.model) if packs else None,
        attacked=bool(config.attacker_lr),
    )


def check_finite(student: torch.nn.Module) -> None:
    for name, parameter in student.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise TrainingError(
                f"The adapter's {name} holds numbers that are not finite: lower --lr; nothing was added to the store."
            )


def check_changed(student: torch.nn.Module) -> None:
    """Refuse an adapter that is still as it began, with every B at 0: under a request's name it would forget nothing.

    Raises:
        TrainingError: with what leaves nothing to learn.
    """
    began_at_zero = [p for name, p in student.named_parameters() if p.requires_grad and "_B." in name]
    if not any(parameter.any() for parameter in began_at_zero):
        raise TrainingError(
            "The adapter has learnt nothing, its update is 0: --forget-coeff 0 leaves nothing to learn, and so does "
            "--tau 1 with --no-keep-speaking; nothing was added to the store."
        )
