"""What an adapter's maps read of its own request, kept beside it: so other adapters' pressure can be told without text.

The inner product of two updates weighs all directions of an input alike. A forgotten answer feels what another adapter
does to the inputs x that its own request has there:

    <D_j, D_i>_i = mean over x of (D_j x) . (D_i x) = tr((B_i^T B_j) (A_j M_i A_i^T)),    M_i = mean of x x^T

for updates D = scaling B A. So A_i M_i, (r, in) a module, is all that has to be kept of the request: as much as A, and
as little text as is in A, which its gradients made a sum of the same inputs. Training measures it
(:mod:`asu_lora.forgetting.own_inputs`). docs/results/adding_up.md has what it tells.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from asu_lora.adapters.lora_folder import LoraFolder
from asu_lora.adapters.manifest import WEIGHTS_NAME
from asu_lora.adapters.tensor_names import aligned
from asu_lora.errors import AdapterError
from asu_lora.files import as_any_new_file

if TYPE_CHECKING:
    from pathlib import Path

    import torch

# in a folder of its own, as some servers read every safetensors file beside the weights
OWN_INPUTS_NAME = "for_sums/own_inputs.safetensors"


def write_own_inputs(folder: "Path", read: "Mapping[str, torch.Tensor]") -> None:
    """Write A M of every module, (r, in), as bf16, into an adapter's folder.

    Args:
        read: by module, as the adapter's own tensors name it.
    """
    import torch
    from safetensors.torch import save_file

    tensors = {name: value.to(torch.bfloat16).cpu().contiguous() for name, value in read.items()}
    path = folder / OWN_INPUTS_NAME
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt"})
    as_any_new_file(path)


def read_own_inputs(lora: LoraFolder) -> "dict[str, torch.Tensor]":
    """A M of every module, (r, in) fp64, by the module's name in ``lora``; empty where its folder keeps none of it.

    Raises:
        AdapterError: the file is damaged, or of another adapter.
    """
    import torch
    from safetensors.torch import load_file

    path = lora.path / OWN_INPUTS_NAME
    if not path.is_file():
        return {}
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{OWN_INPUTS_NAME} of the adapter '{lora.name}' can't be read: {error}.") from error
    places = aligned(sorted(tensors), lora.modules)
    found = {places[name]: value.double() for name, value in tensors.items()}
    for name, module in lora.modules.items():
        value = found.get(name)
        if value is None or value.shape != (module.rank, module.in_features) or not torch.isfinite(value).all():
            raise AdapterError(
                f"{OWN_INPUTS_NAME} of the adapter '{lora.name}' is damaged, or doesn't belong to its {WEIGHTS_NAME} "
                f"({name}): delete it and its line in the manifest, or take the adapter from where it was made."
            )
    return found


def own_inputs_of_sum(parts: "Sequence[torch.Tensor]", whole_b: "torch.Tensor", b: "torch.Tensor") -> "torch.Tensor":
    """(R, in): the A M of a module of a sum, by which a product with it is the sum of those with its parts.

    That is sum_k <D_j, w_k D_k>_k: each part is felt by the inputs of its own request. Where ranks are folded, it is
    the nearest that the sum's own B can give.

    Args:
        parts: A M of each, (r_k, in).
        whole_b: their B side by side, weights and scalings in it, (out, sum of r_k).
        b: the sum's own, (out, R): ``whole_b``, or more ranks than ``out`` folded into as many.
    """
    import torch

    read = torch.cat(list(parts))
    if b.shape == whole_b.shape and torch.equal(b, whole_b):
        return read
    return torch.linalg.lstsq(b.double(), whole_b.double()).solution @ read.double()
