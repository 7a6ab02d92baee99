"""What leaves decoder layers during a forward pass, and what enters them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from asu_lora.models.decoder import answer_hidden, decoder_and_layers, decoder_of, states_entering

Output = torch.Tensor | tuple[torch.Tensor, ...]


def states_leaving(output: Output) -> torch.Tensor:
    """The hidden states, (b, L, H), in what a decoder layer gives."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def layer_output(model: torch.nn.Module, layer: int | None) -> Iterator[list[torch.Tensor]]:
    """Inside, the list gets what the layer puts out in each forward pass, (b, L, H); nothing for None."""
    caught: list[torch.Tensor] = []
    if layer is None:
        yield caught
        return

    def keep(module: torch.nn.Module, args: tuple, output: Output) -> None:
        caught.append(states_leaving(output))

    # taken off before the backward pass: what gradient checkpointing computes again is not caught again
    handle = decoder_and_layers(model)[1][layer].register_forward_hook(keep)
    try:
        yield caught
    finally:
        handle.remove()


@contextmanager
def layer_outputs(model: torch.nn.Module, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Inside, the dictionary gets what these layers put out in the last forward pass, (b, L, H) each."""
    caught: dict[int, torch.Tensor] = {}

    def keep(layer: int, module: torch.nn.Module, args: tuple, output: Output) -> None:
        caught[layer] = states_leaving(output)

    modules = decoder_and_layers(model)[1]
    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(modules[layer].register_forward_hook(partial(keep, layer)).remove)
        yield caught


@contextmanager
def layer_inputs(model: torch.nn.Module, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Inside, the dictionary gets what enters these layers in the last forward pass, (b, L, H) each."""
    caught: dict[int, torch.Tensor] = {}

    def keep(layer: int, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        caught[layer] = states_entering(args, kwargs)

    modules = decoder_and_layers(model)[1]
    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(modules[layer].register_forward_pre_hook(partial(keep, layer), with_kwargs=True).remove)
        yield caught


class _Reached(Exception):
    """Ends a forward pass at a layer, with what leaves it."""

    def __init__(self, states: torch.Tensor):
        self.states = states


def states_as_far_as(model: torch.nn.Module, layer: int, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What leaves a layer at a pass's answer positions, (t, H). The layers above it are not run.

    Args:
        batch: as :func:`asu_lora.models.decoder.answer_hidden` takes it.
    """

    def reached(module: torch.nn.Module, args: tuple, output: Output) -> None:
        raise _Reached(states_leaving(output))

    handle = decoder_and_layers(model)[1][layer].register_forward_hook(reached)
    try:
        return answer_hidden(decoder_of(model), batch)
    except _Reached as end:
        return end.states.flatten(0, 1)[batch["positions"]]
    finally:
        handle.remove()
