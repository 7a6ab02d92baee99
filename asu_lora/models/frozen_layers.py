"""What enters the first layer with an adapter never changes: computed once, and then only the layers above run.

With LoRA in the layers from l upwards, everything below l is the frozen base, for student, reference and teacher
alike (as long as the teacher smooths no layer below l either). The hidden states that enter layer l are kept for
every token of every row, and a training step runs the layers from l alone: no forward pass below, as there is no
backward pass below in any case.

While the cache is in use, the layers below l are replaced by stand-ins that hand over the kept states. Embeddings,
masks and position embeddings still come from the decoder's own code, so nothing about an architecture has to be
known; a model whose layers pass on more than one stream of states is found out by a trial and goes without.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from asu_lora.batches.forward_passes import forward_passes
from asu_lora.batches.padding import pad_group
from asu_lora.batches.token_budget import tokens_of_reading
from asu_lora.data.encoding import Encoded
from asu_lora.models.decoder import answer_hidden, decoder_and_layers, states_entering
from asu_lora.models.layer_outputs import layer_inputs
from asu_lora.models.packing_trial import packing_of


class StandIn(torch.nn.Module):
    """In a layer's place: passes on what it gets, or the states it was given; else it looks like that layer."""

    def __init__(self, layer: torch.nn.Module, shared: "FrozenLayers", gives: bool):
        super().__init__()
        # beneath torch's registry: the layer's weights are no parameters of the stand-in
        self.__dict__["layer"], self.__dict__["shared"], self.__dict__["gives"] = layer, shared, gives

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["layer"], name)  # attention_type, say, which the decoder reads

    def forward(self, *args, **kwargs):
        states = states_entering(args, kwargs)
        if self.gives:
            states = self.shared.states
        elif self.shared.states is None:
            self.shared.states = states
        return (states,) if self.shared.tuples else states


class FrozenLayers:
    """The place in a model above which layers run.

    Args:
        model: the causal LM, or a PEFT model around it.
        first: the lowest layer that runs; 1 or more.

    Attributes:
        states: (b, L, H) what the next forward pass enters layer ``first`` with.
    """

    def __init__(self, model: torch.nn.Module, first: int):
        self.model = model
        self.decoder, self.layers = decoder_and_layers(model)
        self.first = first
        self.states: torch.Tensor | None = None
        self.tuples = False  # whether this architecture's layers return tuples

    @contextmanager
    def replayed(self) -> Iterator["FrozenLayers"]:
        """Inside, the layers below ``first`` hand over :attr:`states` instead of computing them."""
        try:
            with self._replaced(range(self.first), gives=True):
                yield self
        finally:
            self.states = None  # the last batch's

    @contextmanager
    def captured(self) -> Iterator["FrozenLayers"]:
        """Inside, the layers from ``first`` on do nothing, and :attr:`states` gets what would have entered."""
        with self._replaced(range(self.first, len(self.layers)), gives=False):
            yield self

    @contextmanager
    def _replaced(self, indices: range, gives: bool) -> Iterator[None]:
        originals = {index: self.layers[index] for index in indices}
        try:
            for index, layer in originals.items():
                self.layers[index] = StandIn(layer, self, gives)
            yield
        finally:
            for index, layer in originals.items():
                self.layers[index] = layer

    @torch.no_grad()
    def compute(
        self, items: Sequence[Encoded], pad_id: int, progress: Callable[[int], None] | None = None
    ) -> list[torch.Tensor]:
        """What every row enters layer ``first`` with; the layers from there on don't run.

        Returns:
            One (tokens, H) tensor a row, in the model's type, on the CPU (a batch takes its own along to the GPU).
        """
        entries: list[torch.Tensor] = [torch.empty(0)] * len(items)
        for group, batch in self._passes(items, pad_id):
            _keep(entries, items, group, batch, self._caught(batch))
            if progress:
                progress(len(group))
        return entries

    @torch.no_grad()
    def compute_whole(
        self,
        items: Sequence[Encoded],
        pad_id: int,
        higher: "FrozenLayers | None" = None,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """What every row enters layer ``first`` with and its final states, from one pass through all layers.

        Args:
            higher: another entry of the same model, whose states are kept from the same pass.

        Returns:
            Entries, (tokens, H) a row; final hidden states at the answer positions, (answer tokens, H) a row; and
            entries to ``higher``, if there is one. Types and places as in :meth:`compute`.
        """
        entries, finals, above = ([torch.empty(0)] * len(items) for _ in range(3))
        at = [self.first] if higher is None else [self.first, higher.first]
        for group, batch in self._passes(items, pad_id):
            with layer_inputs(self.model, at) as caught:
                final = answer_hidden(self.decoder, batch)
            _keep(entries, items, group, batch, caught[self.first])
            if higher is not None:
                _keep(above, items, group, batch, caught[higher.first])
            for index, part in zip(group, final.cpu().split([len(items[i].answer_ids) for i in group]), strict=True):
                finals[index] = part.clone()
            if progress:
                progress(len(group))
        return entries, finals, above if higher is not None else []

    def _passes(self, items: Sequence[Encoded], pad_id: int):
        device = next(self.decoder.parameters()).device
        packing = packing_of(self.model)
        for group, batch in forward_passes(items, pad_id, tokens_of_reading(device), packing=packing):
            yield group, {key: value.to(device) for key, value in batch.items()}

    def _caught(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """What enters layer ``first`` in a forward pass, (b, L, H)."""
        self.states = None
        with self.captured():
            answer_hidden(self.decoder, batch)
        states, self.states = self.states, None
        if states is None:
            raise RuntimeError("The decoder did not run the layer whose input was to be kept.")
        return states


def _keep(
    kept: list[torch.Tensor],
    items: Sequence[Encoded],
    group: Sequence[int],
    batch: Mapping[str, torch.Tensor],
    states: torch.Tensor,
) -> None:
    """Put each row's states, without padding, into its place, on the CPU."""
    states = states.cpu().flatten(0, 1)  # in one piece: each copy from a GPU waits for it
    for start, index in zip(batch["starts"].tolist(), group, strict=True):
        # clone: a view would keep the states of the whole pass alive
        kept[index] = states[start : start + len(items[index])].clone()


def find_frozen_layers(model: torch.nn.Module, first: int) -> FrozenLayers | None:
    """The entry to layer ``first``, tried out; None where it saves nothing or the architecture doesn't allow it.

    A few tokens pass through the whole decoder and through its two parts: the final hidden states must be the same.
    On the meta device the trial shows only whether the upper layers run without those below.
    """
    if first < 1:
        return None
    entry = FrozenLayers(model, first)
    kind: list[type] = []
    hook = entry.layers[first - 1].register_forward_hook(lambda module, args, output: kind.append(type(output)))
    device = next(entry.decoder.parameters()).device
    items = [Encoded(tuple(range(1, 6)), (2, 3)), Encoded((3, 4), (1, 2))]
    batch, other = (
        {key: value.to(device) for key, value in pad_group(rows, 0).items()}
        for rows in (items, [Encoded((4, 2), (1, 1, 3)), Encoded((2,), (3, 3))])
    )
    with torch.no_grad():
        try:
            whole = answer_hidden(entry.decoder, batch)
        finally:
            hook.remove()
        entry.tuples = kind == [tuple]
        try:
            caught = entry._caught(batch)
            answer_hidden(entry.decoder, other)  # whatever layers leave behind is now another batch's
            entry.states = caught
            with entry.replayed():
                parts = answer_hidden(entry.decoder, batch)
        except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError):
            return None  # its layers exchange more than hidden states
    entry.states = None
    return entry if whole.is_meta or torch.equal(whole, parts) else None


def find_frozen_layers_above(
    entry: FrozenLayers | None, model: torch.nn.Module, layers: Sequence[int] | None
) -> FrozenLayers | None:
    """The entry to the lowest of the smoothed ``layers``, where that is above ``entry``: what the teacher does
    differently begins there."""
    return (
        find_frozen_layers(model, min(layers)) if entry is not None and layers and min(layers) > entry.first else None
    )
