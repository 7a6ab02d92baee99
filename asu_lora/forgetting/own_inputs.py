"""What the new adapter reads of its own request's inputs: measured after training, kept in its folder.

:mod:`asu_lora.adapters.own_inputs` says what it is for. Half way between base and adapter both the base's inputs and
those of the model that has forgotten count.
"""

from collections.abc import Mapping

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from asu_lora.adapters.tensor_names import PREFIX
from asu_lora.forgetting.run import ForgetRun
from asu_lora.forgetting.strength import settle
from asu_lora.losses import TrainingSet
from asu_lora.models.frozen_adapters import NEW
from asu_lora.training.doses import Doses
from asu_lora.training.kept_directions import InputMoments
from asu_lora.training.projection import lora_a
from asu_lora.training.trainer import check_changed

HALF_WAY = 0.5  # of the adapter's strength


def ready_for_sums(run: ForgetRun, student: PeftModel, forget: TrainingSet) -> None:
    """Give a trained adapter its strength, and then look at what weights beside others are fitted by.

    Raises:
        TrainingError: it has learnt nothing.
    """
    check_changed(student)
    settle(run, student, forget)
    look_at_own_inputs(run, student, forget)


def look_at_own_inputs(run: ForgetRun, student: PeftModel, forget: TrainingSet) -> None:
    """Put A M of every module into the run's record, where weights can be fitted to the adapter by it."""
    layers = {name.removeprefix(PREFIX): each for name, each in student.named_modules() if isinstance(each, LoraLayer)}
    embeddings = any(NEW in layer.lora_embedding_A for layer in layers.values())
    if not run.record.forgetting_curve or not run.config.keep_off or embeddings:
        return
    run.progress.stage("What the adapter reads of its request")
    read = OwnInputs({name: layer for name, layer in layers.items() if NEW in layer.lora_A})
    with Doses(student).given(torch.tensor(HALF_WAY)):
        read.read(student, forget.rows, run.base.pad_id, run.frozen_layers)
    run.record.own_inputs = read.means()


class OwnInputs(InputMoments):
    """A M of modules, over all tokens of some rows.

    Attributes:
        sums: the sums of (A x) x^T, (r, in) fp32.
    """

    def __init__(self, layers: Mapping[str, LoraLayer]):
        super().__init__(layers)
        self.factors = {name: lora_a(module, NEW).detach().float() for name, module in layers.items()}
        self.tokens: dict[str, int] = {}

    def means(self) -> dict[str, torch.Tensor]:
        """By module the mean of (A x) x^T over the tokens, (r, in); zeros where none came by (an image's layers)."""
        return {
            name: self.sums[name] / self.tokens[name] if name in self.sums else torch.zeros_like(a)
            for name, a in self.factors.items()
        }

    def _hook(self, name: str):
        def add(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            inputs = args[0].flatten(0, -2)[self._real].float()
            product = (inputs @ self.factors[name].T).T @ inputs
            self.sums[name] = self.sums[name].add_(product) if name in self.sums else product
            self.tokens[name] = self.tokens.get(name, 0) + len(inputs)

        return add
