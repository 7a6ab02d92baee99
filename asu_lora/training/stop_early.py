"""Stops training once the facts are gone and what is kept has settled.

Both are judged from the training's own forward passes, over each whole epoch: no further pass, nothing is generated.

- **Gone**: of the probability that the base gives the true answers of the forget rows, at most ``GONE`` is left; or
  what is left has not fallen by ``FALLING`` in ``STALE`` epochs, as where answers are mostly words of their questions.
  Every row is seen once an epoch, so this is the mean of an epoch: at its end less is left.
- **Settled**: the retain loss is at most ``SETTLED`` of its highest epoch, and at most ``RISING`` times the last one.
  A fresh adapter changes nothing: the loss begins at 0, rises while facts go, and then comes down.

Sums over rows and steps do not depend on how a step is shared out: the same epoch ends the training with micro-batches,
gradient accumulation and several processes.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from asu_lora.losses.answers import Answers
from asu_lora.training.checkpoints import kept_in

GONE = 0.40  # the bar of docs/results/forget_tofu.md; an epoch's mean is above what stands at its end
FALLING, STALE = 0.02, 3
SETTLED = 0.75  # of the highest epoch's retain loss
RISING = 1.05  # times the retain loss of the epoch before


@dataclass(frozen=True)
class Epoch:
    """What an epoch of training told.

    Attributes:
        forget_kept: probability of the forget rows' true answers, the student's over the base's.
        retain_loss: mean over the epoch's steps, nats; None where nothing is kept.
    """

    forget_kept: float
    retain_loss: float | None


def may_stop(epochs: list[Epoch]) -> bool:
    """Whether training may end after these epochs."""
    now, left = epochs[-1], [epoch.forget_kept for epoch in epochs]
    falls = len(left) <= STALE or min(left[:-STALE]) - min(left[-STALE:]) >= FALLING
    if now.forget_kept > GONE and falls:
        return False
    if now.retain_loss is None:
        return True
    losses = [epoch.retain_loss for epoch in epochs if epoch.retain_loss is not None]
    return now.retain_loss <= SETTLED * max(losses) and now.retain_loss <= RISING * min(losses[-2:])


class StopEarly(TrainerCallback, ExportableState):
    """Judges every epoch, and ends the training at the first that may be the last.

    Args:
        summed: adds a tensor up over all processes.

    Attributes:
        epochs: so far.
        stopped: after which step and epoch, and what was seen then; None while training goes on.
    """

    def __init__(self, summed: Callable[[torch.Tensor], torch.Tensor]):
        self.summed = summed
        self.epochs: list[Epoch] = []
        self.stopped: dict[str, Any] | None = None
        self.sums, self.steps, self.keeps = torch.zeros(3), 0, False

    @torch.no_grad()
    def see(self, forget: Answers | None, retain: torch.Tensor | None) -> None:
        """Add a part of a step: its forget rows, and its share in the retain loss."""
        if forget is not None:
            base = forget.references["base_logprob"]
            self._add(0, forget.row_mean(forget.logprob()).exp().sum())
            self._add(1, forget.row_mean(base).exp().sum())
        if retain is not None:
            self.keeps = True
            self._add(2, retain)

    def _add(self, at: int, value: torch.Tensor) -> None:
        self.sums = self.sums.to(value.device)  # no reading of numbers: that would stall a GPU
        self.sums[at] += value.detach()

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sums, self.steps = torch.zeros_like(self.sums), 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1

    def on_epoch_end(self, args, state, control, **kwargs):
        if not self.steps or self.stopped:
            return
        student, base, retain = self.summed(self.sums).tolist()
        self.epochs.append(Epoch(student / max(base, 1e-12), retain / self.steps if self.keeps else None))
        if state.global_step < state.max_steps and may_stop(self.epochs):
            self.stopped = {"step": state.global_step, "of": state.max_steps, "epoch": len(self.epochs)}
            self.stopped |= {name: round(v, 4) for name, v in asdict(self.epochs[-1]).items() if v is not None}
            control.should_training_stop = True

    def state(self) -> dict:
        """What a checkpoint keeps of it."""
        return {"args": {}, "attributes": {"epochs": [asdict(each) for each in self.epochs], "stopped": self.stopped}}

    def restore(self, checkpoint: Path) -> None:
        """Go on with what a checkpoint was written with."""
        kept = kept_in(checkpoint, self)
        self.epochs, self.stopped = [Epoch(**each) for each in kept["epochs"]], kept["stopped"]
