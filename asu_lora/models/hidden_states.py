"""Targets of the frozen base, computed once: smoothed (the forget-teacher) and plain (the reference).

Teacher and base never change, so one pass over the data serves all epochs. What is kept is the final hidden
state at every answer token, H numbers rather than the vocabulary's V: the head is frozen, so the logits
follow exactly. Nothing is copied; the model in memory is the teacher for the length of that pass.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import torch

from asu_lora.batches.forward_passes import forward_passes
from asu_lora.batches.token_budget import tokens_of_reading
from asu_lora.data.encoding import Encoded
from asu_lora.models.decoder import answer_hidden
from asu_lora.models.frozen_layers import Entry
from asu_lora.models.output_head import FrozenHead, label_logprob
from asu_lora.models.packing_trial import packing_of
from asu_lora.teacher.smoothing import attention_smoothing


@torch.no_grad()
def hidden_states(model: torch.nn.Module, items: Sequence[Encoded], pad_id: int, tau: float = 1.0,
                  layers: Iterable[int] | None = None, most_tokens: int | None = None,
                  progress: Callable[[int], None] | None = None, entry: Entry | None = None,
                  entries: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
    """Final hidden states at the answer positions of every row.

    Args:
        model: the causal LM as it should answer (adapters off for base and teacher).
        items: the rows.
        tau: temperature of every attention softmax; 1 leaves the model as it is.
        layers: which decoder layers are smoothed, all by default.
        most_tokens: in one forward pass, by default what suits the device.
        progress: called with the number of rows of each finished pass.
        entry, entries: where the layers that are run begin, and what each row enters there with. Ignored where
            a layer below is smoothed.

    Returns:
        One (answer tokens, H) tensor a row, in the model's type, on its device.
    """
    decoder, device = model.get_decoder(), model.device
    states: list[torch.Tensor] = [torch.empty(0)] * len(items)
    most_tokens = most_tokens or tokens_of_reading(device)
    packing = packing_of(model)
    layers = None if layers is None else list(layers)
    if entry is not None and tau != 1.0 and (layers is None or min(layers, default=0) < entry.first):
        entry = entries = None
    # the trial of a model's first smoothing needs its real layers: it comes before the stand-ins
    smoothed = attention_smoothing(model, tau, layers) if tau != 1.0 else nullcontext()
    with smoothed, entry.above() if entry is not None else nullcontext():
        for group, batch in forward_passes(items, pad_id, most_tokens, entries, packing=packing):
            batch = {key: value.to(device) for key, value in batch.items()}
            if entry is not None:
                entry.states = batch["entry"]
            hidden = answer_hidden(decoder, batch)
            for index, part in zip(group, hidden.split([len(items[i].answer_ids) for i in group]), strict=True):
                # clone: a view would keep the states of the whole pass alive
                states[index] = part.clone()
            if progress:
                progress(len(group))
    return states


@torch.no_grad()
def answer_logprobs(head: FrozenHead, items: Sequence[Encoded], states: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Log-probability of every answer token, nats: one (answer tokens,) fp32 tensor a row."""
    return [
        head.per_token(label_logprob, hidden, torch.tensor(item.answer_ids, device=hidden.device))
        for item, hidden in zip(items, states, strict=True)
    ]
