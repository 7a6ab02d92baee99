"""Inner products of adapters' updates: how far each goes along another one, without any text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from asu_lora.adapters.lora_folder import LoraFolder

if TYPE_CHECKING:
    import torch


def inner_products(loras: Sequence[LoraFolder], own: "Sequence[Mapping[str, torch.Tensor]]" = ()) -> "torch.Tensor":
    """(k, k) fp64: <D_i, D_j> of every two updates D = scaling B A, summed over the modules that both change.

    Their A and B are laid side by side, so that no (out, in) matrix is made and no two adapters meet in a loop.

    Args:
        loras: k adapters of one base, as :func:`~asu_lora.adapters.one_base.read_loras` gives them.
        own: A M of some of them, as :func:`~asu_lora.adapters.own_inputs.read_own_inputs` gives it: row i is then
            <D_j, D_i>_i, by the inputs of request i, and no longer column i. An empty one has all inputs count alike.

    Raises:
        AdapterError: factors that can't be read, or hold NaN or infinities.
    """
    import torch

    found = torch.zeros(len(loras), len(loras), dtype=torch.float64)
    for module in sorted({name for lora in loras for name in lora.modules}):
        having = [at for at, lora in enumerate(loras) if module in lora.modules]
        factors = [scaled_factors(loras[at], module) for at in having]
        a, b = torch.cat([a for a, _ in factors]), torch.cat([b for _, b in factors], 1)
        read = torch.cat([own[at].get(module, a) if own else a for at, (a, _) in zip(having, factors, strict=True)])
        of = torch.repeat_interleave(torch.tensor(having), torch.tensor([len(a) for a, _ in factors]))
        rows = torch.zeros(len(loras), len(a), dtype=torch.float64)
        rows[of, torch.arange(len(a))] = 1.0
        found += rows @ ((read @ a.T) * (b.T @ b)) @ rows.T
    return found


def scaled_factors(lora: LoraFolder, module: str, weight: float = 1.0) -> "tuple[torch.Tensor, torch.Tensor]":
    """A (r, in) and B (out, r), times scaling and weight, in fp64."""
    a, b = lora.factors(module)
    # a convolution's factors have its kernel's axes too, which a norm doesn't tell apart
    return a.double().flatten(1), b.double().flatten(1) * (weight * lora.modules[module].scaling)
