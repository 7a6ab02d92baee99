"""The bytes of a base's weights, in 4 bits or whole, and of an adapter's optimizer."""

import math
from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers.pytorch_utils import Conv1D

from asu_lora.config import ForgetConfig
from asu_lora.memory_plan.meta_simulation import kernels
from asu_lora.memory_plan.planned_run import PlannedRun
from asu_lora.models.decoder import base_model, decoder_of
from asu_lora.models.unpacked_weights import room_to_unpack
from asu_lora.training.kept_directions import kept_count


def quantised_weights(model: torch.nn.Module) -> dict[int, torch.Tensor]:
    """The weights that NF4 loading quantises, by id: those of linear layers (GPT-2's too), but for the head."""
    head = base_model(model).get_output_embeddings()
    return {
        id(m.weight): m.weight
        for m in model.modules()
        if isinstance(m, (torch.nn.Linear, Conv1D)) and m is not head and (head is None or m.weight is not head.weight)
    }


def quantised_of(run: PlannedRun, config: ForgetConfig) -> dict[int, torch.Tensor]:
    """The weights that this run holds in 4 bits, by id; none where it loads the base in another precision."""
    return quantised_weights(run.model) if (run.precision or config.precision) in ("nf4", "fp4") else {}


def weight_bytes(model: torch.nn.Module, quantised: dict[int, torch.Tensor]) -> int:
    """Memory of the base's weights."""
    return sum(nf4_bytes(p.numel()) if id(p) in quantised else p.numel() * p.element_size() for p in model.parameters())


def int8_saving(maps: Iterable[torch.Tensor]) -> int:
    """What LLM.int8 (arXiv 2208.07339) holds less of linear layers: 8 bits a number, a 32-bit scale a row."""
    return sum(w.numel() * (w.element_size() - 1) - 4 * w.shape[0] for w in maps)


def unpacked_bytes(
    models: Iterable[torch.nn.Module], quantised: dict[int, torch.Tensor], run: PlannedRun, share: int
) -> int:
    """Memory of the weights that :func:`asu_lora.models.unpacked_weights.unpacked` would hold, by what is free now."""
    total, room = 0, room_to_unpack(share) if run.device.type == "cpu" else 0
    for module in chain.from_iterable(model.modules() for model in models):
        weight = quantised.get(id(getattr(module, "weight", None)))
        size = 0 if weight is None or isinstance(module, LoraLayer) else weight.numel() * run.compute.itemsize
        if total + size > room:
            break
        total += size
    return total


def nf4_bytes(numbers: int) -> int:
    """NF4 with double quantisation (QLoRA, arXiv 2305.14314): 4 bits a number, an 8-bit scale for each 64, a 32-bit
    scale for each 256 of those; and the two code books and the offset that bitsandbytes keeps with every weight."""
    blocks = math.ceil(numbers / 64)
    return math.ceil(numbers / 2) + blocks + 4 * math.ceil(blocks / 256) + 4 * (16 + 256 + 1)


def optimizer_bytes(parameters: Sequence[torch.Tensor], config: ForgetConfig, device: torch.device) -> int:
    """Memory of the optimizer's states: two moments a parameter, in 8 bits for tensors of 4096 numbers or more."""
    name = config.optimizer
    if name == "auto":
        name = "paged_adamw_8bit" if device.type == "cuda" else "adamw_torch"
    moments = 0 if "sgd" in name or "adafactor" in name else 1 if "lion" in name else 2
    small = "8bit" in name
    return sum(p.numel() * moments * (1 if small and p.numel() >= 4096 else 4) for p in parameters)


@torch.no_grad()
def basis_bytes(student: PeftModel, share: float) -> int:
    """Memory of the directions that an adapter keeps off (``--keep-off``): a basis for every input that is read.

    Args:
        student: on the meta device; two tokens pass through it to see which modules read the same.
    """
    inputs: list[torch.Tensor] = []  # held, so that no address is used twice

    def see(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if not any(args[0] is other for other in inputs):
            inputs.append(args[0])

    layers = [module for module in student.modules() if isinstance(module, LoraLayer)] if share else []
    hooks = [module.base_layer.register_forward_pre_hook(see) for module in layers]
    if layers:
        with kernels(()):  # experts' products need them
            decoder_of(student)(input_ids=torch.zeros(1, 2, dtype=torch.long, device="meta"))
    for hook in hooks:
        hook.remove()
    return sum(4 * each.shape[-1] * kept_count(each.shape[-1], share) for each in inputs)
