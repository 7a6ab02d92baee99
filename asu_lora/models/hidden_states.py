"""Final hidden states at the answer tokens, of whatever is active: base, teacher or student.

A state is H numbers where logits are the vocabulary's V. The head is frozen, so the logits follow exactly.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import torch

from asu_lora.batches.forward_passes import forward_passes
from asu_lora.batches.token_budget import tokens_of_reading
from asu_lora.data.encoding import Encoded
from asu_lora.models.decoder import answer_hidden, base_model, decoder_of
from asu_lora.models.frozen_layers import FrozenLayers
from asu_lora.models.layer_outputs import layer_output
from asu_lora.models.output_head import FrozenHead, label_logprob
from asu_lora.models.packing_trial import packing_of


@torch.no_grad()
def hidden_states(
    model: torch.nn.Module,
    items: Sequence[Encoded],
    pad_id: int,
    *,
    progress: Callable[[int], None] | None = None,
    entry: FrozenLayers | None = None,
    entries: Sequence[torch.Tensor] | None = None,
    layer: int | None = None,
) -> list[torch.Tensor]:
    """Final hidden states at the answer positions of every row.

    Args:
        model: the causal LM as it should answer.
        items: the rows.
        progress: called with the number of rows of each finished pass.
        entry, entries: where the layers that are run begin, and what each row enters there with.
        layer: give instead the states that leave this decoder layer.

    Returns:
        One (answer tokens, H) tensor a row, in the model's type, on its device.
    """
    causal = base_model(model)
    decoder, device = decoder_of(causal), causal.device
    states: list[torch.Tensor] = [torch.empty(0)] * len(items)
    packing = packing_of(model)
    with entry.replayed() if entry is not None else nullcontext():
        for group, batch in forward_passes(items, pad_id, tokens_of_reading(device), entries, packing=packing):
            batch = {key: value.to(device) for key, value in batch.items()}
            if entry is not None:
                entry.states = batch["entry"]
            with layer_output(causal, layer) as inner:
                hidden = answer_hidden(decoder, batch)
            hidden = inner[0].flatten(0, 1)[batch["positions"]] if inner else hidden
            for index, part in zip(group, hidden.split([len(items[i].answer_ids) for i in group]), strict=True):
                # clone: a view would keep the states of the whole pass alive
                states[index] = part.clone()
            if progress:
                progress(len(group))
    return states


@torch.no_grad()
def answer_logprobs(head: FrozenHead, items: Sequence[Encoded], states: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Log-probability of every answer token, nats: one (answer tokens,) fp32 tensor a row."""
    return [
        head.per_token(label_logprob, hidden, torch.tensor(item.answer_ids, device=hidden.device))
        for item, hidden in zip(items, states, strict=True)
    ]
