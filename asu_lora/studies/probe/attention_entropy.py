"""How widely attention is spread where an answer's tokens are predicted.

Only eager attention gives its weights away, so the decoder runs with it here. A weight matrix is (batch, heads,
queries, keys), far larger than anything else in the pass. So one number a query is kept before the next layer runs.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from transformers import PreTrainedModel

from asu_lora.batches.forward_passes import forward_passes
from asu_lora.data.encoding import Encoded
from asu_lora.models.decoder import answer_hidden, decoder_of
from asu_lora.teacher.smoothing import attention_modules, attention_smoothing

MOST_TOKENS = 2048  # in one forward pass; eager attention holds (rows, heads, length, length) several times


@torch.no_grad()
def answer_attention(
    model: PreTrainedModel, items: Sequence[Encoded], pad_id: int, tau: float, layers: Sequence[int]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Final hidden states and attention entropies at the answer positions of every row, smoothed.

    Args:
        model: the frozen base, no adapter active.
        tau: temperature of the attention in ``layers``; 1 leaves it as it is.
        layers: the layers that are smoothed, and over which the entropy is averaged.

    Returns:
        One (answer tokens, H) tensor of states a row, as :func:`asu_lora.models.hidden_states.hidden_states` gives,
        and one (answer tokens,) fp32 tensor: ``-sum p log p`` of the attention at the position that predicts the token,
        mean over heads and layers, nats; NaN where the model's attention doesn't give its weights away.
    """
    decoder, device = decoder_of(model), model.device
    states: list[torch.Tensor] = [torch.empty(0)] * len(items)
    entropies: list[torch.Tensor] = [torch.empty(0)] * len(items)
    with (
        eager(decoder),
        attention_smoothing(model, tau, layers),
        EntropyReader(attention_modules(model, layers)) as reader,
    ):
        for group, batch in forward_passes(items, pad_id, MOST_TOKENS):
            batch = {key: value.to(device) for key, value in batch.items()}
            hidden = answer_hidden(decoder, batch)
            rows, width = batch["input_ids"].shape
            spread = reader.take(rows, width).flatten()[batch["positions"].cpu()]
            lengths = [len(items[index].answer_ids) for index in group]
            for index, state, part in zip(group, hidden.split(lengths), spread.split(lengths), strict=True):
                states[index], entropies[index] = state.clone(), part.clone()
    return states, entropies


@contextmanager
def eager(decoder: PreTrainedModel) -> Iterator[None]:
    """Inside, attention is computed step by step; after it the way it was."""
    native = decoder.config._attn_implementation
    decoder.config._attn_implementation = {"": "eager"}  # a dictionary, to leave sub-configs alone
    try:
        yield
    finally:
        decoder.config._attn_implementation = {"": native}


def entropy(weights: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of distributions over the last dimension, fp32.

    They are brought to a sum of 1: eager attention rounds to the model's type, and what went to an attention
    sink is no attention to a token.
    """
    weights = weights.float()
    return torch.special.entr(weights / weights.sum(-1, keepdim=True).clamp_min(1e-30)).sum(-1)


class EntropyReader:
    """Inside ``with``, adds up the attention entropies of modules as they run.

    Args:
        modules: attention modules of transformers, in eager mode.
    """

    def __init__(self, modules: Sequence[torch.nn.Module]):
        self.modules = modules
        self.hooks = ExitStack()
        self.total: torch.Tensor | None = None
        self.layers = 0

    def __enter__(self) -> "EntropyReader":
        for module in self.modules:
            self.hooks.callback(module.register_forward_hook(self._read).remove)
        return self

    def __exit__(self, *error) -> None:
        self.hooks.close()

    def take(self, rows: int, width: int) -> torch.Tensor:
        """(rows, width) mean over heads and modules since the last call, on the CPU; NaN if none was seen."""
        mean = torch.full((rows, width), torch.nan) if self.total is None else (self.total / self.layers).cpu()
        self.total, self.layers = None, 0
        return mean

    def _read(self, module: torch.nn.Module, args: tuple, output) -> None:
        """transformers' attention gives (output, weights), weights (rows, heads, queries, keys)."""
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if isinstance(weights, torch.Tensor) and weights.ndim == 4:
            mean = entropy(weights).mean(1)
            self.total = mean if self.total is None else self.total + mean
            self.layers += 1
