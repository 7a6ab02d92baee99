"""Training on ``transformers.Trainer``: accelerate, checkpoints, resuming, TensorBoard and W&B come with it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from peft.utils import load_peft_weights
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, TrainerState
from transformers.training_args import OptimizerNames, ParallelMode

from asu_lora.batches.collator import Collator, losses
from asu_lora.batches.forget_retain_pairs import ForgetRetainPairs
from asu_lora.config import ForgetConfig
from asu_lora.errors import NotEnoughMemory, SettingError, TrainingError
from asu_lora.hardware.memory import give_back, out_of_memory
from asu_lora.losses import Objective
from asu_lora.models.output_head import FrozenHead
from asu_lora.progress import Progress
from asu_lora.training.student import Student


class UnlearningTrainer(Trainer):
    """Trainer whose loss is forget_coeff * forget loss + retain_coeff * retain loss (ASU, eq. 9).

    Args:
        student: the base with its adapter; only the adapter is trained, saved and loaded.
        objectives: the loss of each half, ``forget`` and perhaps ``retain`` and ``own``.
        coefficients: the weight of each half's loss.
        head: the base's output head.
    """

    def __init__(self, student: Student, objectives: dict[str, Objective], coefficients: dict[str, float],
                 head: FrozenHead, **kwargs: Any):
        super().__init__(model=student, **kwargs)
        self.objectives = objectives
        self.coefficients = coefficients
        self.head = head
        self.sums: dict[str, torch.Tensor] = {}
        self.counted = 0
        self.remove_callback(PrinterCallback)  # the library never prints

    def training_step(self, model, inputs, num_items_in_batch=None):
        *others, last = inputs["micro_batches"]
        self.counted += 1
        total = 0
        for micro_batch in others:
            with self.accelerator.no_sync(model):  # processes exchange gradients once a step
                total += super().training_step(model, micro_batch, num_items_in_batch)
            if self.args.use_cpu:
                give_back()
        return total + super().training_step(model, last, num_items_in_batch)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # through the model that Trainer wrapped, so that gradients are averaged over processes
        hidden = model(inputs["passes"])
        parts = losses(hidden, inputs, self.objectives, self.head)
        for half, value in parts.items():
            self.sums[half] = self.sums.get(half, 0) + value.detach()
        loss = sum(self.coefficients[half] * value for half, value in parts.items())
        return (loss, hidden) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self.counted:
            logs |= {f"{half}_loss": (total / self.counted).item() for half, total in self.sums.items()}
            self.sums, self.counted = {}, 0
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if self.args.should_save:
            # "auto" would ask the hub for the base's config
            self.model.model.save_pretrained(folder, save_embedding_layers=False, selected_adapters=["default"])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        set_peft_model_state_dict(self.model.model, load_peft_weights(resume_from_checkpoint, device="cpu"))


class Watch(TrainerCallback):
    """Tells the listener about every step, and stops a run whose loss is no number any more."""

    def __init__(self, progress: Progress, stage: str):
        self.progress = progress
        self.stage = stage

    def on_train_begin(self, args, state, control, **kwargs):
        self.progress.stage(self.stage, state.max_steps)
        if state.global_step:
            self.progress.advance(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        if args.use_cpu:
            give_back()
        self.progress.advance(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs = logs or {}
        for name in ("loss", "grad_norm"):
            if name in logs and not math.isfinite(logs[name]):
                raise TrainingError(f"The {name.replace('_', ' ')} became {logs[name]} at step {state.global_step}: "
                                    "lower --lr, or use another objective; nothing was added to the store.")
        shown = {name: logs[name] for name in ("loss", "forget_loss", "retain_loss", "own_loss") if name in logs}
        if shown:
            self.progress.advance(0, **shown)


class TellEpoch(TrainerCallback):
    """Tells the pairs which epoch it is; accelerate's data loader does so where there is one process only."""

    def __init__(self, pairs: ForgetRetainPairs):
        self.pairs = pairs

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.pairs.set_epoch(int(state.epoch))


class Arguments(TrainingArguments):
    """transformers' arguments, but for the warm-up of short runs."""

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """The share of the steps, rounded up; none where it is less than a step.

        The rate of a warm-up's first step is 0: rounded up from less, it would waste a step, and a run of one step
        would train nothing.
        """
        if self.warmup_steps * num_training_steps < 1:
            return 0
        return min(super().get_warmup_steps(num_training_steps), num_training_steps - 1)


def check_optimizer(config: ForgetConfig) -> None:
    """Refuse an optimizer that Trainer doesn't have.

    Raises:
        SettingError: with the names it has.
    """
    names = [optimizer.value for optimizer in OptimizerNames]
    if config.optimizer not in ("auto", *names):
        raise SettingError(f"optimizer is '{config.optimizer}', which is none of auto, {', '.join(names)}.")


def training_arguments(config: ForgetConfig, folder: Path, device: torch.device, compute: torch.dtype,
                       checkpoints: bool) -> TrainingArguments:
    """transformers' arguments for a run in ``folder``."""
    cuda = device.type == "cuda"
    optimizer = config.optimizer if config.optimizer != "auto" else ("paged_adamw_8bit" if cuda else "adamw_torch")
    arguments = Arguments(
        output_dir=str(folder), per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.grad_accum, num_train_epochs=config.epochs, learning_rate=config.lr,
        lr_scheduler_type=config.scheduler if config.scheduler != "constant" else "constant_with_warmup",
        warmup_steps=config.warmup, weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm,
        optim=optimizer, seed=config.seed, data_seed=config.seed, fp16=compute == torch.float16, bf16=False,
        logging_strategy="steps", logging_steps=5 if cuda else 1, logging_first_step=True,
        # Trainer would put the running mean in the place of a NaN
        logging_nan_inf_filter=False, report_to=config.report_to.split(","),
        save_strategy="epoch" if checkpoints else "no", save_total_limit=2, disable_tqdm=True,
        remove_unused_columns=False, use_cpu=device.type == "cpu", dataloader_pin_memory=cuda,
        ddp_find_unused_parameters=False, average_tokens_across_devices=False,
    )
    # a process works on one device: DataParallel, Trainer's way with several, can't split a batch of passes
    arguments._n_gpu = min(arguments.n_gpu, 1)
    if device.index and arguments.parallel_mode != ParallelMode.DISTRIBUTED:
        stay_on(device, arguments)
    return arguments


def stay_on(device: torch.device, arguments: TrainingArguments) -> None:
    """Train on the device the base is on; a process on its own would take the first there is, and move the base.

    TrainingArguments takes ``cuda:0`` and makes it the current device, whatever was current before; Trainer's
    batches go where ``arguments.device`` says, accelerate's where the shared state says.
    """
    if device.type != "cpu":
        torch.accelerator.set_device_index(device.index)
    arguments.__dict__["_setup_devices"] = device  # what the cached property ``device`` gives
    arguments.distributed_state.device = device


def train(student: Student, objectives: dict[str, Objective], head: FrozenHead, pairs: ForgetRetainPairs,
          collator: Collator, config: ForgetConfig, arguments: TrainingArguments, progress: Progress,
          resume: bool = False, stage: str = "Training", callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """Train the student's adapter in place.

    Args:
        stage: what the progress calls it.
        callbacks: further ones of Trainer's.
        resume: go on from the last checkpoint in the arguments' folder, if there is one.

    Returns:
        Trainer's closing figures (steps, seconds, mean loss).

    Raises:
        TrainingError: the loss turned NaN.
        NotEnoughMemory: of the device.
    """
    trainer = UnlearningTrainer(
        student, objectives,
        {"forget": config.forget_coeff, "retain": config.retain_coeff, "own": config.forget_coeff}, head,
        args=arguments, train_dataset=pairs, data_collator=collator,
        callbacks=[TellEpoch(pairs), Watch(progress, stage), *callbacks],
    )
    checkpoint = last_checkpoint(Path(arguments.output_dir)) if resume else None
    if checkpoint:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if state.global_step >= state.max_steps:  # after part of an epoch, Trainer would do one step more
            trainer._load_from_checkpoint(str(checkpoint))
            return closing_figures(state)
    try:
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise NotEnoughMemory("There is not enough memory for a training step: lower --micro-batch-tokens or add "
                              "--gradient-checkpointing.") from error
    return closing_figures(trainer.state, result.metrics.get("train_runtime", 0.0))


def closing_figures(state: TrainerState, seconds: float = 0.0) -> dict[str, float]:
    """Steps, seconds and mean loss; Trainer's own mean is wrong after a resume, the sum since then over all steps."""
    logged = [entry["loss"] for entry in state.log_history if "loss" in entry]
    return {"steps": state.global_step, "train_loss": sum(logged) / max(len(logged), 1), "train_seconds": seconds}


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run: the newest that holds Trainer's state, written last."""
    found = [path for path in folder.glob("checkpoint-*") if (path / TRAINER_STATE_NAME).is_file()]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
