"""Answers token by token, where the next token is chosen from the logits of one model or of several side by side."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedTokenizerBase

from asu_lora.data.chat_template import ChatTemplate
from asu_lora.data.row_format import BaseLimits
from asu_lora.hardware.memory import release_freed_memory
from asu_lora.models.answer_ends import Endings, ended, stop_tokens
from asu_lora.models.decoder import base_model
from asu_lora.models.generation import batches
from asu_lora.models.greedy import padded_on_the_left

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
    rooms: Sequence[int],
    *,
    progress: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Answer every prompt, in batches of like length. A prompt that stands there several times is read once.

    Args:
        passes: the models that are looked at, which read the same tokens.
        choose: takes fp32 logits (b, V) of each pass, gives the next tokens (b,).
        rooms: most tokens of each answer.

    Returns:
        The token ids of each answer, without the end of turn.
    """
    model = passes[0].model
    stops, next_turn = stop_tokens(model, tokenizer), ChatTemplate(tokenizer).next_turn()
    lengths = list(map(len, prompts))
    positions = BaseLimits.of(base_model(model).config).positions
    if positions is not None:
        rooms = [max(1, min(room, positions - length)) for room, length in zip(rooms, lengths, strict=True)]
    widest = dict(sorted(zip(lengths, rooms, strict=True)))  # the largest of each length
    answers: list[list[int]] = [[]] * len(prompts)
    for rows in batches(model, lengths, lambda length: widest[length]):
        told = _batch(passes, choose, tokenizer, [(prompts[row], rooms[row]) for row in rows], stops)
        for row, tokens in zip(rows, told, strict=True):
            answers[row] = ended(tokens, rooms[row], stops, tokenizer, next_turn, Endings())
        if progress:
            progress(len(rows))
    release_freed_memory()
    return answers


def _batch(
    passes: Sequence[Pass],
    choose: Choose,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[tuple[tuple[int, ...], int]],
    stops: Sequence[int],
) -> list[list[int]]:
    """What is written after each prompt, in its room. Rows that have ended leave the batch."""
    once = {prompt: at for at, prompt in enumerate(dict.fromkeys(prompt for prompt, _ in asked))}
    device = next(passes[0].model.parameters()).device
    ids, mask = (each.to(device) for each in padded_on_the_left(list(once), tokenizer.pad_token_id))
    caches = [DynamicCache() for _ in passes]
    logits = [_next_logits(one, ids, mask, cache) for one, cache in zip(passes, caches, strict=True)]
    each = torch.tensor([once[prompt] for prompt, _ in asked], device=device)
    if len(once) < len(asked):
        logits, mask = [of_pass[each] for of_pass in logits], _taken(each, mask, caches)
    told: list[list[int]] = [[] for _ in asked]
    rows = list(range(len(asked)))
    while True:
        chosen = choose(logits).to(device)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            told[row].append(token)
        going = [at for at, row in enumerate(rows) if told[row][-1] not in stops and len(told[row]) < asked[row][1]]
        if not going:
            return told
        if len(going) < len(rows):
            rows, kept = [rows[at] for at in going], torch.tensor(going, device=device)
            chosen, mask = chosen[kept], _taken(kept, mask, caches)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        logits = [_next_logits(one, chosen[:, None], mask, cache) for one, cache in zip(passes, caches, strict=True)]


def _taken(rows: torch.Tensor, mask: torch.Tensor, caches: Sequence[DynamicCache]) -> torch.Tensor:
    """These rows of the mask; the caches keep them alone."""
    for cache in caches:
        cache.batch_select_indices(rows)
    return mask[rows]


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
