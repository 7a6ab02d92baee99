"""Several adapters on one frozen base, each row of a pass with its own: y = W x + s B_i A_i x for a row of adapter i.

PEFT does so for answers alone, and one adapter after the other. Here the A of the rows, (b, r, in), and their B are two
batched products, and every adapter gets the gradient of its own rows. It is what servers of many adapters do (S-LoRA,
arXiv 2311.03285; Punica, arXiv 2310.18547), for training.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import nn
from torch.nn.functional import linear

from asu_lora.errors import SettingError
from asu_lora.models.decoder import base_model
from asu_lora.models.frozen_adapters import NEW
from asu_lora.training.doses import laid_over


class Pair(NamedTuple):
    """What an adapter has in one module: A, (r, in), B, (out, r), and what B A is multiplied by."""

    a: nn.Parameter
    b: nn.Parameter
    scaling: float


@dataclass(frozen=True)
class LooseAdapter:
    """An adapter beside the model: PEFT's own parameters, and not in it.

    Attributes:
        pairs: by the name of the module.
        weights: the same numbers under the names that PEFT writes them with.
        config: PEFT's.
    """

    pairs: Mapping[str, Pair]
    weights: Mapping[str, torch.Tensor]
    config: LoraConfig

    @classmethod
    def of(cls, student: PeftModel) -> "LooseAdapter":
        """The new adapter of a student; it lives on when PEFT takes it off.

        Raises:
            SettingError: it is more than an A and a B in some module.
        """
        pairs = {}
        for name, module in base_model(student).named_modules():
            if not isinstance(module, LoraLayer) or NEW not in (*module.lora_A, *module.lora_embedding_A):
                continue
            plain = NEW in module.lora_A and not isinstance(module, ParamWrapper)
            if not plain or NEW in module.lora_magnitude_vector or module.lora_bias.get(NEW):
                raise SettingError(f"The adapter of {name} is no plain LoRA: train such requests one after the other.")
            a, b = (cast(nn.Parameter, each[NEW].weight) for each in (module.lora_A, module.lora_B))
            pairs[name] = Pair(a, b, float(module.scaling[NEW]))
        weights = get_peft_model_state_dict(student, adapter_name=NEW, save_embedding_layers=False)
        return cls(pairs, weights, cast(LoraConfig, student.peft_config[NEW]))

    def parameters(self) -> list[nn.Parameter]:
        return [each for pair in self.pairs.values() for each in (pair.a, pair.b)]

    @torch.no_grad()
    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take over the numbers of a file."""
        for name, own in self.weights.items():
            own.copy_(weights[name])


class RowAdapters:
    """Which adapter acts at which row of the next pass.

    Args:
        model: the base, without adapters on it.
        adapters: of the same settings: in the same modules, of the same rank and scaling.
    """

    def __init__(self, model: nn.Module, adapters: Sequence[LooseAdapter]):
        self.model, self.adapters = base_model(model), adapters
        self.one: int | None = None  # acts at all rows
        self.chosen: list[int] = []  # those that act at some rows
        self.at: torch.Tensor | None = None  # (b,) index of each row's adapter into these
        self.doses: torch.Tensor | None = None

    @contextmanager
    def in_place(self) -> Iterator["RowAdapters"]:
        """Inside, the adapters' modules are such that a row may have one; none acts yet."""
        originals = {name: self.model.get_submodule(name) for name in self.adapters[0].pairs}
        try:
            for name, module in originals.items():
                self.model.set_submodule(name, PerRow(module, self, [each.pairs[name] for each in self.adapters]))
            yield self
        finally:
            for name, module in originals.items():
                self.model.set_submodule(name, module)

    @contextmanager
    def acting(self, rows: int | Sequence[int] | None, doses: torch.Tensor | None = None) -> Iterator[None]:
        """Inside, these adapters act, at these doses.

        Args:
            rows: the number of each row's adapter, or of the one that acts at all rows; None for the plain base.
            doses: (b, 1, 1) what each row's update is multiplied by.
        """
        before = self.one, self.chosen, self.at, self.doses
        self.one, self.chosen, self.at, self.doses = None, [], None, doses
        if isinstance(rows, int):
            self.one = rows
        elif rows is not None and len(set(rows)) == 1:
            self.one = rows[0]
        elif rows is not None:
            self.chosen = sorted(set(rows))
            place = {number: at for at, number in enumerate(self.chosen)}
            self.at = torch.tensor([place[number] for number in rows], device=self.adapters[0].parameters()[0].device)
        try:
            yield
        finally:
            self.one, self.chosen, self.at, self.doses = before


class PerRow(nn.Module):
    """In a linear map's place: the map itself, and what each row's adapter adds; else it looks like the map."""

    def __init__(self, layer: nn.Module, shared: RowAdapters, pairs: Sequence[Pair]):
        super().__init__()
        # beneath torch's registry: neither the map's weights nor the adapters' are its parameters
        self.__dict__["layer"], self.__dict__["shared"], self.__dict__["pairs"] = layer, shared, pairs

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["layer"], name)

    def forward(self, states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result = self.layer(states, *args, **kwargs)
        shared = self.shared
        if shared.one is None and shared.at is None:
            return result
        scaling = self.pairs[0].scaling
        strength = scaling if shared.doses is None else scaling * laid_over(shared.doses, states)
        states = states.to(self.pairs[0].a.dtype)
        if shared.one is not None:
            a, b, _ = self.pairs[shared.one]
            return (result + linear(linear(states, a), b) * strength).to(result.dtype)
        at = cast(torch.Tensor, shared.at)
        if states.dim() != 3 or len(states) != len(at):
            raise SettingError(
                "This base hands its maps rows that are torn apart (a mixture of experts does), so rows can't have "
                "adapters of their own: train its requests one after the other."
            )
        a, b = (torch.stack([self.pairs[i][which] for i in shared.chosen])[at] for which in (0, 1))  # type: ignore[misc]
        return (result + torch.bmm(torch.bmm(states, a.mT), b.mT) * strength).to(result.dtype)
