"""Greedy answers to many questions: batched by length, stopped at the end of the turn."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from asu_lora.data.chat_template import ChatTemplate
from asu_lora.data.encoding import Encoded
from asu_lora.data.row_format import BaseLimits
from asu_lora.errors import DataError
from asu_lora.hardware.memory import release_freed_memory
from asu_lora.models.answer_ends import Endings, ended, stop_tokens
from asu_lora.models.decoder import base_model
from asu_lora.models.greedy import Acting, Ends, write_greedily
from asu_lora.models.unpacked_weights import unpacked

TOTAL_TOKENS = 200  # prompt and answer together, as in "A Closer Look at Machine Unlearning for LLMs"
LEAST_ANSWER = 100  # of them for the answer, however long the prompt: a true answer is rarely longer
MOST_ROWS = 80  # answered at once; more is no faster
KEYS_AND_VALUES = 750_000_000  # bytes of them that the answers of one batch may fill: fewer rows of a large model


@torch.no_grad()
def generate_answers(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    total_tokens: int = TOTAL_TOKENS,
    batch_rows: int | None = None,
    *,
    least: int = 16,
    progress: Callable[[int], None] | None = None,
    new_tokens: int | None = None,
    whole: bool = False,
    rooms: Sequence[int] | None = None,
    endings: Endings | Sequence[Endings] | None = None,
    acting: Acting = nullcontext,
) -> list[list[int]]:
    """Answer every prompt greedily.

    An answer ends with its turn, without a chat template also at the next question, or at the base's last position.

    Args:
        model: the causal LM, with whatever adapters are active.
        prompts: token ids of each prompt.
        total_tokens: most tokens of prompt and answer together, for each prompt by its own length.
        batch_rows: prompts answered at once, by default as :func:`batches` says.
        least: tokens that any answer may have.
        progress: called with the number of prompts of each finished batch.
        new_tokens: most tokens of an answer, however long its prompt, instead of ``total_tokens``.
        whole: whether an answer may go on to a next question (the continuation of a passage, say).
        rooms: most tokens of each prompt's answer, instead of all these.
        endings: counts how the answers end; or one for each prompt.
        acting: gives what must be on while the prompts of these numbers are answered.

    Returns: the token ids of each answer, without the end-of-turn token.

    Raises:
        DataError: a prompt leaves the base no position for an answer.
        BaseModelError: the architecture can't be asked, or its logits are not finite.
    """
    lengths = list(map(len, prompts))
    positions = BaseLimits.of(base_model(model).config).positions
    rooms = _rooms_left(lengths, rooms or [new_tokens or max(least, total_tokens - n) for n in lengths], positions)
    widest = dict(sorted(zip(lengths, rooms, strict=True)))
    ends = Ends(tuple(stop_tokens(model, tokenizer)), None if whole else ChatTemplate(tokenizer).next_turn())
    counts = [endings or Endings()] * len(prompts) if isinstance(endings, Endings | None) else endings
    answers: list[list[int]] = [[]] * len(prompts)
    training, together = model.training, batches(model, lengths, lambda length: widest[length], batch_rows)
    model.eval()
    try:
        with unpacked(base_model(model)):
            for rows in within_positions(together, lengths, rooms, positions):
                mine, on = [prompts[row] for row in rows], partial(_on_for, acting, rows)
                told = write_greedily(model, tokenizer, mine, [rooms[row] for row in rows], ends, acting=on)
                for row, tokens in zip(rows, told, strict=True):
                    answers[row] = ended(tokens, rooms[row], ends.stops, tokenizer, ends.next_turn, counts[row])
                if progress:
                    progress(len(rows))
    finally:
        model.train(training)
        release_freed_memory()
    return answers


def _on_for(acting: Acting, rows: Sequence[int], going: Sequence[int]) -> AbstractContextManager[Any]:
    return acting([rows[at] for at in going])


def _rooms_left(lengths: Sequence[int], rooms: Sequence[int], positions: int | None) -> Sequence[int]:
    if positions is None:
        return rooms
    rooms = [min(most, positions - length) for most, length in zip(rooms, lengths, strict=True)]
    if lengths and min(rooms) < 1:
        raise DataError.plain(
            f"A prompt takes {max(lengths)} tokens, and the base has {positions} positions, which leaves no room for "
            "an answer: shorten it."
        )
    return rooms


def batches(
    model: torch.nn.Module, lengths: Sequence[int], room: Callable[[int], int], batch_rows: int | None = None
) -> list[list[int]]:
    """Which prompts are answered together: those of like length, the longest first.

    As many as the keys and values of prompts and answers allow, by their size and not by what memory is free:
    arithmetic in 16 bits depends on the batch, and the same run must give the same answers on every machine.

    Args:
        lengths: tokens of each prompt.
        room: the most tokens of an answer, by the length of its prompt.
        batch_rows: that many, instead.
    """
    order, found, size = sorted(range(len(lengths)), key=lambda i: -lengths[i]), [], key_value_bytes(model)
    while order:
        width = lengths[order[0]]
        rows = batch_rows or max(1, min(MOST_ROWS, KEYS_AND_VALUES // (size * (width + room(width)))))
        found.append(order[:rows])
        order = order[rows:]
    return found


def within_positions(
    found: Sequence[list[int]], lengths: Sequence[int], rooms: Sequence[int], positions: int | None
) -> Iterator[list[int]]:
    """Batches whose longest prompt has positions for as many tokens as the longest answer.

    A row that has ended goes on through the model with its batch, and a position too many ends in an IndexError.
    """
    for batch in found:
        part: list[int] = []
        for row in batch:
            if part and positions is not None and lengths[part[0]] + rooms[row] > positions:
                yield part
                part = []
            part.append(row)
        yield part


def key_value_bytes(model: torch.nn.Module) -> int:
    """Memory of one token's keys and values in all layers, as the config tells; an estimate for the architectures whose
    configs tell it otherwise (layers of several kinds, or with a state instead)."""
    model = cast(PreTrainedModel, base_model(model))
    config = model.config.get_text_config()
    try:
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        stored = getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None) or heads
        if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
            stored = 1  # Falcon's first kind
        numbers = stored * size
    except (AttributeError, RuntimeError):  # none, or another one in every layer
        numbers = config.hidden_size
    return 2 * config.num_hidden_layers * numbers * model.dtype.itemsize


def answer_rooms(items: Sequence[Encoded], prompts: Sequence[Sequence[int]]) -> list[int]:
    """Most tokens of the answer to each prompt of a set, by :func:`enough_tokens`."""
    most, least = enough_tokens(items, prompts)
    return [max(least, most - len(prompt)) for prompt in prompts]


def enough_tokens(items: Sequence[Encoded], prompts: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Room for half as much again as the longest true answer.

    An answer that rambles on beyond that says nothing new, and waiting for it would double the time of a run.

    Returns:
        Most tokens of prompt and answer together, at most 200; and those of an answer to a longer prompt, at most 100.
    """
    answer = max((len(item.answer_ids) for item in items), default=0) * 3 // 2 + 8
    return min(TOTAL_TOKENS, max(map(len, prompts), default=0) + answer), max(16, min(LEAST_ANSWER, answer))
