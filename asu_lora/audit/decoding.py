"""Answers token by token, where the next token is chosen from the logits of one model or of several side by side."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedTokenizerBase

from asu_lora.data.chat_template import ChatTemplate
from asu_lora.hardware.memory import release_freed_memory
from asu_lora.models.answer_ends import Endings, ended, stop_tokens
from asu_lora.models.decoder import base_model
from asu_lora.models.generation import batches

Choose = Callable[[Sequence[torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class Pass:
    """One model's forward pass.

    Attributes:
        on: inside, ``model`` is what it should be (adapters on, or off).
    """

    model: torch.nn.Module
    on: Callable[[], AbstractContextManager[Any]]


@torch.no_grad()
def decode(
    passes: Sequence[Pass],
    choose: Choose,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[int, ...]],
    new_tokens: int,
    *,
    progress: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Answer every prompt, in batches of like length.

    Args:
        passes: the models that are looked at, which read the same tokens.
        choose: takes fp32 logits (b, V) of each pass, gives the next tokens (b,).
        new_tokens: most tokens of an answer.

    Returns:
        The token ids of each answer, without the end of turn.
    """
    stops, next_turn = stop_tokens(passes[0].model, tokenizer), ChatTemplate(tokenizer).next_turn()
    answers: list[list[int]] = [[]] * len(prompts)
    for rows in batches(passes[0].model, list(map(len, prompts)), lambda _: new_tokens):
        told = _batch(passes, choose, tokenizer, [prompts[row] for row in rows], new_tokens, stops)
        for row, tokens in zip(rows, told, strict=True):
            answers[row] = ended(tokens, new_tokens, stops, tokenizer, next_turn, Endings())
        if progress:
            progress(len(rows))
    release_freed_memory()
    return answers


def _batch(
    passes: Sequence[Pass],
    choose: Choose,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[int, ...]],
    new_tokens: int,
    stops: Sequence[int],
) -> list[list[int]]:
    width = max(map(len, prompts))
    device = next(passes[0].model.parameters()).device
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    ids = torch.tensor(
        [[tokenizer.pad_token_id] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device
    )
    caches = [DynamicCache() for _ in passes]
    written: list[torch.Tensor] = []
    over = torch.zeros(len(prompts), dtype=torch.bool)
    ends = torch.tensor(list(stops), dtype=torch.long)
    for _ in range(new_tokens):
        logits = [_next_logits(one, ids, mask, cache) for one, cache in zip(passes, caches, strict=True)]
        chosen = choose(logits).cpu()
        chosen = torch.where(over, torch.tensor(tokenizer.pad_token_id), chosen)
        written.append(chosen)
        over |= torch.isin(chosen, ends)
        if bool(over.all()):
            break
        ids = chosen[:, None].to(device)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    told = torch.stack(written, 1)
    return [row[: _first_end(row, stops)] for row in told.tolist()]


def _first_end(row: list[int], stops: Sequence[int]) -> int:
    """One past the first end of turn: what follows it is padding."""
    return next((at + 1 for at, token in enumerate(row) if token in stops), len(row))


def _next_logits(one: Pass, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
    """Logits (b, V), fp32, after the tokens that are read."""
    model = base_model(one.model)
    options: dict[str, Any] = {}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = 1
    places = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    if "position_ids" in inspect.signature(model.forward).parameters:
        options["position_ids"] = places
    with one.on():
        output = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options)
    return output.logits[:, -1].float()
