"""An attacker in the loop: the adapter forgets from where relearning would bring it, too.

In every second step an attacker has moved the adapter's weights towards the true answers of a fifth of the request, a
step further each time. The gradient is taken there and applied where the adapter stands: first order, as in
first-order MAML (Finn et al., arXiv 1703.03400) and tamper-resistant training (Tamirisa et al., arXiv 2408.00761).
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from asu_lora.batches.forget_retain_pairs import Pair
from asu_lora.training.step_losses import views_of

if TYPE_CHECKING:
    from asu_lora.training.trainer import UnlearningTrainer

EPISODE = 5  # steps of one attacker; then another begins, with other rows
KNOWN = 5  # one row in so many is relearnt
ROWS = 4  # of these in a step


class Attacker:
    """Relearns beside the training, and is undone after each of its steps.

    Args:
        trainer: whose adapter it attacks.
        lr: root mean square of its step, in each tensor of the adapter.
        rows: how many the request has.
        seed: of the rows that it knows.
    """

    def __init__(self, trainer: "UnlearningTrainer", lr: float, rows: int, seed: int):
        self.trainer, self.lr, self.rows, self.seed = trainer, lr, rows, seed
        self.parameters = [p for p in trainer.student.parameters() if p.requires_grad]
        self.moved = [torch.zeros_like(p) for p in self.parameters]
        self.began: tuple[int, int] | None = None  # epoch and number of the episode
        self.last = -1  # the step of the training that it moved before
        self.steps = 0  # in this epoch

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Inside, in every second step, the adapter is what the attacker has made of it."""
        step = self.trainer.state.global_step
        if step % 2 == 0:
            yield
            return
        if step != self.last:  # of several batches a step the first
            self.last = step
            self._move()
        held = [parameter.detach().clone() for parameter in self.parameters]
        self._add()
        try:
            yield
        finally:
            self._restore(held)

    def _move(self) -> None:
        """One step further; a checkpoint ends an epoch, and so no attacker outlives one."""
        epoch = int(self.trainer.state.epoch or 0)
        if self.began is None or self.began[0] != epoch:
            self.steps = 0
        if self.began != (epoch, self.steps // EPISODE):
            self.began = (epoch, self.steps // EPISODE)
            for moved in self.moved:
                moved.zero_()
        self.steps += 1
        drawn = random.Random(f"{self.seed} {self.began}")
        known = drawn.sample(range(self.rows), max(1, self.rows // KNOWN))
        drawn = random.Random(f"{self.seed} {epoch} {self.steps}")
        for moved, slope in zip(self.moved, self._slopes(drawn.sample(known, min(ROWS, len(known)))), strict=True):
            if slope is not None:
                moved.add_(slope / (slope.pow(2).mean().sqrt() + torch.finfo(slope.dtype).tiny), alpha=-self.lr)

    def _slopes(self, rows: list[int]) -> list[torch.Tensor | None]:
        """By each tensor: the gradient of the rows' mean negative log likelihood, where the attacker has come to."""
        gradients = [parameter.grad for parameter in self.parameters]  # of the step's earlier batches
        held = [parameter.detach().clone() for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        self._add()
        try:
            self._backward(rows)
            return [parameter.grad for parameter in self.parameters]
        finally:
            self._restore(held)
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient

    def _backward(self, rows: list[int]) -> None:
        trainer = self.trainer
        pairs: list[Any] = [Pair(row, []) for row in rows]
        batch = trainer.data_collator(pairs)
        tokens = batch["totals"]["forget"]["answer"]["step_tokens"]
        for micro_batch in batch["micro_batches"]:
            if "forget" not in micro_batch["sets"]:  # the student's own answers alone, which nobody relearns
                continue
            prepared = trainer._prepare_inputs(micro_batch)
            with trainer.compute_loss_context_manager():
                hidden = trainer.student(prepared["passes"])
                answers = views_of(hidden, prepared, trainer.head, batch["totals"])["forget"]["answer"]
                loss = -answers.logprob().sum() / tokens
            loss.backward()
            trainer.student.pass_back()

    def _add(self) -> None:
        with torch.no_grad():
            for parameter, moved in zip(self.parameters, self.moved, strict=True):
                parameter.add_(moved)

    def _restore(self, held: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, before in zip(self.parameters, held, strict=True):
                parameter.copy_(before)
