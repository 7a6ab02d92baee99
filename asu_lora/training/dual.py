"""The retain loss's weight as the multiplier of a constraint: moved after every step (PDU, arXiv 2506.05314)."""

from collections.abc import Callable, MutableMapping
from pathlib import Path

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from asu_lora.losses.forget.pdu import PDU
from asu_lora.training.checkpoints import kept_in

MOST_WARMUP = 0.5  # of a run: the paper's warm-ups are 5 and 3 of 10 epochs, and shorter parts of longer runs


class DualCoefficient(TrainerCallback, ExportableState):
    """Moves ``coefficients["retain"]`` by the retain loss of each whole step, whatever it is shared out in.

    It stays as it is for the loss's ``warmup`` epochs, and for no more than half of the run: a run as short as the
    warm-up would never move it.

    Args:
        loss: says how far.
        coefficients: the trainer's.
        summed: a step's retain loss so far, over all processes.
    """

    def __init__(self, loss: PDU, coefficients: MutableMapping[str, float], summed: Callable[[], torch.Tensor | float]):
        self.loss, self.coefficients, self.summed = loss, coefficients, summed
        self.before = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self.before = float(self.summed())

    def on_step_end(self, args, state, control, **kwargs):
        retain = float(self.summed()) - self.before
        if (state.epoch or 0.0) >= min(self.loss.warmup, MOST_WARMUP * args.num_train_epochs):
            self.coefficients["retain"] = self.loss.next_coefficient(self.coefficients["retain"], retain)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs is not None and "loss" in logs:
            logs["retain_coeff"] = self.coefficients["retain"]

    def state(self) -> dict:
        """What a checkpoint keeps of it."""
        return {"args": {}, "attributes": {"coefficient": self.coefficients["retain"]}}

    def restore(self, checkpoint: Path) -> None:
        """Go on with the weight that a checkpoint was written with."""
        self.coefficients["retain"] = kept_in(checkpoint, self)["coefficient"]
