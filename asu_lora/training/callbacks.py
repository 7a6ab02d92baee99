"""What the Trainer tells while it trains: steps, losses, epochs."""

import math
from collections.abc import Sequence

from transformers import TrainerCallback

from asu_lora.batches.forget_retain_pairs import ForgetRetainPairs
from asu_lora.errors import SettingError, TrainingError
from asu_lora.progress import Progress


def check_callbacks(callbacks: Sequence[TrainerCallback]) -> None:
    """Refuse what the Trainer would take for a callback only once it trains.

    Raises:
        SettingError: one is no object of ``TrainerCallback``.
    """
    for each in callbacks:
        if not isinstance(each, TrainerCallback):
            said = f"the class {each.__name__}" if isinstance(each, type) else f"of type {type(each).__name__}"
            raise SettingError(
                f"A callback is {said}: give objects of classes that derive from transformers.TrainerCallback."
            )


class ProgressCallback(TrainerCallback):
    """Tells the listener about every step, and stops a run whose loss is no number any more."""

    def __init__(self, progress: Progress, stage: str):
        self.progress = progress
        self.stage = stage

    def on_train_begin(self, args, state, control, **kwargs):
        self.progress.stage(self.stage, state.max_steps)
        if state.global_step:
            self.progress.advance(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        self.progress.advance(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs = logs or {}
        for name in ("loss", "grad_norm"):
            if name in logs and not math.isfinite(logs[name]):
                raise TrainingError(
                    f"The {name.replace('_', ' ')} became {logs[name]} at step {state.global_step}: "
                    "lower --lr, or use another objective; nothing was added to the store."
                )
        told = ("loss", "forget_loss", "retain_loss", "on_policy_loss", "retain_coeff")
        shown = {name: logs[name] for name in told if name in logs}
        if shown:
            self.progress.advance(0, **shown)


class EpochCallback(TrainerCallback):
    """Tells the pairs which epoch it is; accelerate's data loader does so where there is one process only."""

    def __init__(self, pairs: ForgetRetainPairs):
        self.pairs = pairs

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.pairs.set_epoch(int(state.epoch))
