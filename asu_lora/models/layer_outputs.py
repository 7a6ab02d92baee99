"""What leaves one decoder layer during a forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from asu_lora.models.decoder import decoder_and_layers


@contextmanager
def layer_output(model: torch.nn.Module, layer: int | None) -> Iterator[list[torch.Tensor]]:
    """Inside, the list gets what the layer puts out in each forward pass, (b, L, H); nothing for None."""
    caught: list[torch.Tensor] = []
    if layer is None:
        yield caught
        return

    def keep(module: torch.nn.Module, args: tuple, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    # taken off before the backward pass: what gradient checkpointing computes again is not caught again
    handle = decoder_and_layers(model)[1][layer].register_forward_hook(keep)
    try:
        yield caught
    finally:
        handle.remove()
