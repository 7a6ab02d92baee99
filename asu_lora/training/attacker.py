"""An attacker in the loop: the adapter forgets beside one that relearns, too.

Who relearns a request puts an adapter of their own on the model. It hardly undoes the one that forgets: measured, the
two updates stand at right angles, and a small one brings much back (docs/results/robust.md). So the attacker here is an
adapter of its own as well. Before each step it learns the true answers of a fifth of the request a little better; the
gradient of the step is taken with it acting on the forget rows, and applied without it: first order, as in first-order
MAML (Finn et al., arXiv 1703.03400) and tamper-resistant training (Tamirisa et al., arXiv 2408.00761).
"""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import LoraConfig, LoraModel, PeftModel
from peft.tuners.lora import LoraLayer

from asu_lora.batches.forget_retain_pairs import Pair
from asu_lora.models.frozen_adapters import NEW
from asu_lora.training.doses import NOTHING, Doses
from asu_lora.training.step_losses import views_of

if TYPE_CHECKING:
    from asu_lora.training.trainer import UnlearningTrainer

ATTACKER = "attacker"  # PEFT's name of its adapter
RANK = 16
EPISODE = 8  # steps of one attacker; then another begins, with other rows
KNOWN = 5  # one row in so many is relearnt
ROWS = 2  # of these in a step
CLIP = 1.0  # gradient norm
FILE = "attacker.pt"  # in a checkpoint


class Attacker:
    """Relearns beside the training, in the layers that the new adapter has.

    Args:
        trainer: whose adapter it attacks.
        lr: AdamW's learning rate.
        rows: how many the request has.
        seed: of its adapters and of the rows that it knows.

    Attributes:
        steps: made so far, of all episodes.
    """

    def __init__(self, trainer: "UnlearningTrainer", lr: float, rows: int, seed: int):
        self.trainer, self.lr, self.rows, self.seed = trainer, lr, rows, seed
        self.steps = 0
        self.last = -1  # the step of the training that it moved before

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Inside, its adapter is on the student's model, and acts on the rows that a pass calls ``attacked``."""
        student = self.trainer.student
        peft = cast(PeftModel, student.model)
        layers, active = cast(LoraModel, peft.base_model), list(peft.active_adapters)
        trained = [parameter for parameter in peft.parameters() if parameter.requires_grad]
        peft.add_adapter(ATTACKER, like(peft.peft_config[NEW]))
        layers.set_adapter([*active, ATTACKER])
        train_only(peft, trained)
        found = [each for each in peft.modules() if isinstance(each, LoraLayer) and ATTACKER in each.lora_A]
        self.pairs = [(weight_of(each.lora_A[ATTACKER]), weight_of(each.lora_B[ATTACKER])) for each in found]
        self.parameters = [weight for pair in self.pairs for weight in pair]
        student.attacker = Doses(peft, ATTACKER)
        self._begin()
        try:
            with student.attacker.given(NOTHING):
                yield
        finally:
            student.attacker = None
            peft.delete_adapter(ATTACKER)
            layers.set_adapter(active)
            train_only(peft, trained)

    def step(self) -> None:
        """One step further, if the training has made one: a step of several batches counts once."""
        now = self.trainer.state.global_step
        if now == self.last:
            return
        self.last = now
        if self.steps % EPISODE == 0:
            self._begin()
        drawn = random.Random(f"{self.seed} {self.steps}")
        self._learn(drawn.sample(self.known, min(ROWS, len(self.known))))
        self.steps += 1

    def save(self, folder: Path) -> None:
        """Write what it has learnt in this episode, for a run that goes on from here."""
        weights = [parameter.detach().cpu() for parameter in self.parameters]
        torch.save({"steps": self.steps, "weights": weights, "optimizer": self.optimizer.state_dict()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Go on from what :meth:`save` wrote."""
        kept = torch.load(folder / FILE, map_location="cpu", weights_only=True)
        self.steps = max(0, kept["steps"] - 1)
        self._begin()
        self.steps = kept["steps"]
        with torch.no_grad():
            for parameter, weight in zip(self.parameters, kept["weights"], strict=True):
                parameter.copy_(weight)
        self.optimizer.load_state_dict(kept["optimizer"])

    @torch.no_grad()
    def _begin(self) -> None:
        """Another attacker: fresh weights as PEFT begins them, B = 0, and other rows that it knows."""
        episode = self.steps // EPISODE
        self.known = random.Random(f"{self.seed} {episode} known").sample(range(self.rows), max(1, self.rows // KNOWN))
        drawn = torch.Generator().manual_seed(hash((self.seed, episode)) % 2**63)
        for a, b in self.pairs:
            a.copy_((2 * torch.rand(a.shape, generator=drawn) - 1) * a[0].numel() ** -0.5)
            b.zero_()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.lr, weight_decay=0.0)

    def _learn(self, rows: list[int]) -> None:
        """A step towards these rows' true answers, beside the adapter as it stands."""
        self._let_train(True)
        try:
            for loss in self._losses(rows):
                found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
                for parameter, slope in zip(self.parameters, found, strict=True):
                    if slope is not None:
                        parameter.grad = slope if parameter.grad is None else parameter.grad + slope
                self.trainer.student.pass_back()
            torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
            self.optimizer.step()
        finally:
            self.optimizer.zero_grad()
            self._let_train(False)

    def _let_train(self, trains: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(trains)

    def _losses(self, rows: list[int]) -> Iterator[torch.Tensor]:
        """By micro-batch its share of the rows' mean negative log likelihood."""
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
                yield -answers.logprob().sum() / tokens


def like(new: Any) -> LoraConfig:
    """The config of an attacker: the new adapter's modules and layers, at its own rank and without dropout."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=new.target_modules,
        exclude_modules=new.exclude_modules,
        layers_to_transform=new.layers_to_transform,
    )


def weight_of(linear: torch.nn.Module) -> torch.nn.Parameter:
    return cast(torch.nn.Parameter, linear.weight)


def train_only(model: torch.nn.Module, trained: Iterable[torch.nn.Parameter]) -> None:
    """Let these train and no others: PEFT lets every adapter train that it turns on."""
    wanted = {id(parameter) for parameter in trained}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)
