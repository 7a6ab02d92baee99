"""Copies of the base's own weights in an adapter: taken where they are the base's, to the bit, and else refused.

PEFT puts whole embeddings beside a LoRA (``save_embedding_layers``): by itself where they have a LoRA, and where the
vocabulary grew. The first are what the base has anyway. The others would be written over the base's, and switching
the adapter off would not bring those back.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from asu_lora.adapters.lora_folder import LoraFolder
from asu_lora.adapters.manifest import WEIGHTS_NAME
from asu_lora.adapters.tensor_names import PREFIX, without_layout
from asu_lora.bases.checkpoint_files import StoredTensor, read_checkpoint
from asu_lora.bases.source import BaseSource
from asu_lora.errors import AdapterError
from asu_lora.safetensors_header import TensorInfo


def refuse_changed_copies(lora: LoraFolder, source: BaseSource) -> None:
    """Compare every copy with the base's own files.

    Raises:
        AdapterError: one differs, or the base has no such weight.
        BaseModelError: the base's files can't be read.
    """
    if not lora.copies:
        return
    tensors = read_checkpoint(source.path)
    for name, info in lora.copies.items():
        own = _read(lora.path / WEIGHTS_NAME, info.name, lora)
        if not any(_same(own, stored, lora) for stored in _counterparts(name, tuple(own.shape), tensors)):
            raise _refusal(lora, info, f"is not what '{source.name}' has there")


def refuse_misplaced_copies(lora: LoraFolder, base: torch.nn.Module) -> None:
    """The same as far as names and shapes tell, for a base without numbers (:func:`refuse_changed_copies` reads them).

    Raises:
        AdapterError: the base has no such weight, or it has another shape.
    """
    if not lora.copies:
        return
    shapes = {
        without_layout(name.replace(".base_layer", "")): tuple(parameter.shape)
        if parameter.is_floating_point()
        else None
        for name, parameter in base.named_parameters(remove_duplicate=False)
    }
    for name, info in lora.copies.items():
        wanted = shapes.get(without_layout(name), ())
        if wanted is not None and wanted != info.shape:  # None: packed in 4 bit, and so of another shape
            raise _refusal(lora, info, "is no weight of this base, or has another shape there")


def _refusal(lora: LoraFolder, info: TensorInfo, why: str) -> AdapterError:
    own = info.name.removeprefix(PREFIX)
    return AdapterError(
        f"The adapter '{lora.path.name}' can't be used: it carries the tensor {own}, which {why}, and would stay when "
        "the adapter is switched off; if it was meant to be the base's own, save it anew with "
        "save_embedding_layers=False."
    )


def _counterparts(name: str, shape: tuple[int, ...], tensors: dict[str, StoredTensor]) -> Iterator[StoredTensor]:
    """The base's tensors that a copy may be of: the one of its name, and for a tied head any of its shape."""
    named = [stored for tensor, stored in tensors.items() if without_layout(tensor) == without_layout(name)]
    yield from named or (stored for stored in tensors.values() if stored.info.shape == shape)


def _same(own: torch.Tensor, stored: StoredTensor, lora: LoraFolder) -> bool:
    """Whether it is the base's tensor, read in the type that the adapter holds it in."""
    if stored.info.shape != tuple(own.shape):
        return False
    return torch.equal(_read(stored.file, stored.info.name, lora).to(own.dtype), own)


def _read(file: Path, tensor: str, lora: LoraFolder) -> torch.Tensor:
    try:
        with safe_open(file, "pt") as opened:
            found: torch.Tensor = opened.get_tensor(tensor)
            return found
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f"The adapter '{lora.path.name}' can't be compared with its base: {tensor} in {file.name} can't be read."
        ) from error
