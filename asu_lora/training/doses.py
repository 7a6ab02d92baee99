"""Doses: beside a retain row the adapter acts at a multiple of its strength, so that adapters add up.

The sum of k adapters repeats k times what all of them have in common. An adapter that leaves the kept rows alone at
several times its strength leaves them alone in company too. The retain loss therefore sees doses from 1 to
``retain_dose``, and the forget loss doses from 1 to ``forget_dose``. LoRA's scaling becomes a tensor, one number a row
or token: no further pass, no further memory (docs/results/adding_up.md).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.tuners.lora import LoraLayer
from torch.utils.hooks import RemovableHandle

from asu_lora.errors import TrainingError
from asu_lora.models.frozen_adapters import NEW

NOTHING = torch.zeros(())  # the dose at which an adapter is off


class Doses:
    """Multiplies what the new adapter adds, token by token.

    Args:
        student: the base with the new adapter.
        adapter: PEFT's name of another one.
    """

    def __init__(self, student: torch.nn.Module, adapter: str = NEW):
        self.adapter = adapter
        lora = [module for module in student.modules() if isinstance(module, LoraLayer)]
        self.layers = [module for module in lora if adapter in module.lora_A]
        self.scaling = [module.scaling[adapter] for module in self.layers]
        self.now: torch.Tensor | None = None
        self._hooks: list[RemovableHandle] = []

    @contextmanager
    def given(self, doses: torch.Tensor | None) -> Iterator[None]:
        """Inside, the adapter acts at these doses, (b, L, 1) or (b, 1, 1); at its own strength where None."""
        before = self.now
        self._set(doses)
        try:
            yield
        finally:
            self._set(before)

    def _set(self, doses: torch.Tensor | None) -> None:
        if doses is self.now:
            return
        self.now = doses
        for module, scaling in zip(self.layers, self.scaling, strict=True):
            module.scaling[self.adapter] = scaling if doses is None else scaling * doses
        for hook in self._hooks:
            hook.remove()
        named = doses is not None and doses.dim() == 3
        self._hooks = [module.register_forward_pre_hook(self._fit) for module in self.layers] if named else []

    def _fit(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Where a module doesn't read (b, L, n), the doses take the shape of what it reads."""
        if inputs[0].dim() != 3 and self.now is not None and isinstance(module, LoraLayer):
            scaling = next(own for layer, own in zip(self.layers, self.scaling, strict=True) if layer is module)
            module.scaling[self.adapter] = scaling * laid_over(self.now, inputs[0])


def laid_over(doses: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Doses of rows or tokens, (b, 1, 1) or (b, L, 1), in a shape that a module's output is multiplied by.

    Args:
        states: the module's input: (b, L, n), (b L, n), or (b, heads, L, n) as some attention has it.

    Raises:
        TrainingError: it reads some of the tokens alone, as an expert of a mixture does.
    """
    if states.dim() == 2:
        tokens, torn = divmod(len(states), len(doses))
        if torn or doses.shape[1] not in (1, tokens):
            raise TrainingError(
                "This base hands some of its maps a part of the tokens (a mixture of experts does), so rows can't have "
                "doses there: train with --no-adds-up, or leave the experts out of --target-modules."
            )
        return doses.expand(-1, tokens, -1).reshape(-1, 1)
    if states.dim() == 4:
        return doses.unsqueeze(2 if states.shape[1] == doses.shape[1] else 1)
    return doses


@torch.no_grad()
def strengthen(student: torch.nn.Module, strength: float) -> None:
    """Multiply what the new adapter adds, for good."""
    for module in student.modules():
        if isinstance(module, LoraLayer) and NEW in module.lora_B:
            weight = module.lora_B[NEW].weight
            assert isinstance(weight, torch.Tensor)
            weight.mul_(strength)
