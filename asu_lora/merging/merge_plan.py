"""What happens to each tensor of the base: which updates it takes, and whether 4 bit is a matter for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from asu_lora.adapters.lora_folder import LoraFolder, LoraModule
from asu_lora.errors import AdapterError
from asu_lora.merging.checkpoint.architecture import Skeleton
from asu_lora.merging.checkpoint.tensor_reader import LazyTensorReader
from asu_lora.merging.nf4.quantization import statistics_of


@dataclass(frozen=True)
class Update:
    """One adapter's share in a tensor: ``weight * scaling * B A``, transposed for a tensor (in, out)."""

    lora: LoraFolder
    module: LoraModule
    weight: float
    transposed: bool

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Left (rows of the tensor, r) and right (r, columns) in fp32; their product is what is added.

        Raises:
            SettingError: see :meth:`~asu_lora.adapters.lora_folder.LoraFolder.weighted_factors`.
        """
        a, b = self.lora.weighted_factors(self.module.name, self.weight)
        return (a.T, b.T) if self.transposed else (b, a)


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the checkpoint.

    Attributes:
        name: in the checkpoint.
        parameter: the parameter it loads into; None when transformers makes something else of it.
        updates: what is added to it.
        four_bit: a linear layer's weight, which bitsandbytes holds in 4 bit.
        conv1d: stored as (in, out), and quantised as its transpose.
        packed: stored in 4 bit already; ``statistics`` are the tensors beside it.
    """

    name: str
    parameter: str | None
    updates: tuple[Update, ...]
    four_bit: bool
    conv1d: bool
    packed: bool
    statistics: tuple[str, ...]

    @property
    def module(self) -> str:
        return (self.parameter or self.name).removesuffix(".weight")

    def factors(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """All updates side by side, so that one product in fp32 sums them: left (rows, sum of ranks), right
        (sum of ranks, columns)."""
        if not self.updates:
            return None
        left, right = zip(*(update.factors() for update in self.updates), strict=True)
        return torch.cat(left, dim=1).contiguous(), torch.cat(right, dim=0).contiguous()


def plan_merge(
    reader: LazyTensorReader, skeleton: Skeleton, adapters: Sequence[tuple[LoraFolder, float]]
) -> list[TensorPlan]:
    """Give every adapter module its tensor, in the order of the checkpoint.

    Raises:
        AdapterError: a module without a tensor of its own, of another size, or tied to another module.
    """
    tensor_of = {parameter: stored for stored, parameter in skeleton.parameter_of.items()}
    updates: dict[str, list[Update]] = {}
    for lora, weight in adapters:
        for module in lora.modules.values():
            tensor = _tensor_for(lora, module, skeleton, tensor_of)
            transposed = module.embedding or module.name in skeleton.conv1d
            shape = (
                (module.in_features, module.out_features) if transposed else (module.out_features, module.in_features)
            )
            real = skeleton.shapes[f"{module.name}.weight"]
            if shape != real:
                raise AdapterError(
                    f"The adapter '{lora.name}' changes {module.name} with the shape "
                    f"{list(shape)}, and the base has {list(real)} there: it is for another."
                )
            if weight:  # 0 leaves the tensor as it is, to the bit
                updates.setdefault(tensor, []).append(Update(lora, module, weight, transposed))
    statistics = {name: tuple(statistics_of(name, reader.tensors)) for name in reader.tensors}
    beside = {other for names in statistics.values() for other in names}
    plans = []
    for name in reader.tensors:
        if name not in beside:
            parameter = skeleton.parameter_of.get(name)
            owner = (parameter or "").removesuffix(".weight")
            is_weight = parameter == f"{owner}.weight"
            plans.append(
                TensorPlan(
                    name,
                    parameter,
                    tuple(updates.get(name, ())),
                    is_weight and owner in skeleton.four_bit,
                    is_weight and owner in skeleton.conv1d,
                    bool(statistics[name]),
                    statistics[name],
                )
            )
    return plans


def _tensor_for(lora: LoraFolder, module: LoraModule, skeleton: Skeleton, tensor_of: dict[str, str]) -> str:
    parameter = f"{module.name}.weight"
    if parameter not in skeleton.shapes:
        raise AdapterError(
            f"The adapter '{lora.name}' changes {module.name}, which this base does not have: "
            "it belongs to another base."
        )
    if parameter in skeleton.tied:
        other = skeleton.tied[parameter].removesuffix(".weight")
        raise AdapterError(
            f"The adapter '{lora.name}' changes {module.name}, which shares its weight with "
            f"{other} in this base: merging would change both; serve it beside the base."
        )
    if parameter not in tensor_of:
        raise AdapterError(
            f"The adapter '{lora.name}' changes {module.name}, which has no tensor of its "
            "own in this checkpoint (transformers converts it on loading): merge with PEFT."
        )
    return tensor_of[parameter]
