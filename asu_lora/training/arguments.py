"""The Trainer's arguments, from the settings of a run."""

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames, ParallelMode

from asu_lora.config import ForgetConfig
from asu_lora.errors import SettingError, first_line


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


def check_optimizer(config: ForgetConfig, device: torch.device) -> None:
    """Refuse an optimizer that Trainer doesn't have, or whose package isn't installed, before any work is done.

    Raises:
        SettingError: with the names it has, or its own reason.
    """
    names = [optimizer.value for optimizer in OptimizerNames]
    if config.optimizer not in ("auto", *names):
        raise SettingError(f"optimizer is '{config.optimizer}', which is none of auto, {', '.join(names)}.")
    if config.optimizer == "auto":
        return
    arguments = training_arguments(config, Path(), device, torch.float32, checkpoints=False)
    try:
        any_model: Any = torch.nn.Linear(1, 1)  # LOMO wants one
        Trainer.get_optimizer_cls_and_kwargs(arguments, any_model)
    except (ImportError, ValueError) as error:
        raise SettingError(
            f"optimizer is '{config.optimizer}', which can't be used here: {first_line(error)} 'auto' always can."
        ) from error


def training_arguments(
    config: ForgetConfig, folder: Path, device: torch.device, compute: torch.dtype, checkpoints: bool
) -> TrainingArguments:
    """transformers' arguments for a run in ``folder``."""
    cuda = device.type == "cuda"
    optimizer = config.optimizer if config.optimizer != "auto" else ("paged_adamw_8bit" if cuda else "adamw_torch")
    arguments = Arguments(
        output_dir=str(folder),
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.grad_accum,
        num_train_epochs=config.epochs,
        learning_rate=config.lr,
        lr_scheduler_type=config.scheduler if config.scheduler != "constant" else "constant_with_warmup",
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim=optimizer,
        seed=config.seed,
        data_seed=config.seed,
        fp16=compute == torch.float16,
        bf16=False,
        logging_strategy="steps",
        logging_steps=5 if cuda else 1,
        logging_first_step=True,
        # Trainer would put the running mean in the place of a NaN
        logging_nan_inf_filter=False,
        report_to=config.report_to.split(","),
        save_strategy="epoch" if checkpoints else "no",
        save_total_limit=2,
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=cuda,
        ddp_find_unused_parameters=False,
        average_tokens_across_devices=False,
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
