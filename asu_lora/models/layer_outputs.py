"""What leaves one decoder layer during a forward pass."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from asu_lora.models.decoder import answer_hidden, decoder_and_layers, decoder_of


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


class _Reached(Exception):
    """Ends a forward pass at a layer, with what leaves it."""

    def __init__(self, states: torch.Tensor):
        self.states = states


def states_as_far_as(model: torch.nn.Module, layer: int, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What leaves a layer at a pass's answer positions, (t, H). The layers above it are not run.

    Args:
        batch: as :func:`asu_lora.models.decoder.answer_hidden` takes it.
    """

    def reached(module: torch.nn.Module, args: tuple, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        raise _Reached(output[0] if isinstance(output, tuple) else output)

    handle = decoder_and_layers(model)[1][layer].register_forward_hook(reached)
    try:
        return answer_hidden(decoder_of(model), batch)
    except _Reached as end:
        return end.states.flatten(0, 1)[batch["positions"]]
    finally:
        handle.remove()
