"""Greedy answers to many questions: batched by length, stopped at the end of the turn."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from asu_lora.data.chat_template import ChatTemplate
from asu_lora.data.encoding import Encoded
from asu_lora.data.row_format import BaseLimits
from asu_lora.errors import BaseModelError, DataError, first_line
from asu_lora.hardware.memory import release_freed_memory
from asu_lora.models.answer_ends import Endings, NextTurn, ended, stop_tokens
from asu_lora.models.decoder import base_model, class_name

TOTAL_TOKENS = 200  # prompt and answer together, as in "A Closer Look at Machine Unlearning for LLMs"
LEAST_ANSWER = 100  # of them for the answer, however long the prompt: a true answer is rarely longer
MOST_ROWS = 80  # answered at once; more is no faster
KEYS_AND_VALUES = 750_000_000  # bytes of them that the answers of one batch may fill: fewer rows of a large model
GIVEN_BACK = 16  # tokens after which freed memory goes back to the system


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
    endings: Endings | None = None,
) -> list[list[int]]:
    """Answer every prompt greedily.

    An answer ends at the end of the turn, or where the base has no more positions; without a chat template, also where
    the next question begins.

    Args:
        model: the causal LM, with whatever adapters are active.
        prompts: token ids of each prompt.
        total_tokens: most tokens of prompt and answer together, for each prompt by its own length.
        batch_rows: prompts answered at once, by default as :func:`batches` says.
        least: tokens that an answer may have however long its prompt.
        progress: called with the number of prompts of each finished batch.
        new_tokens: most tokens of an answer, however long its prompt, instead of ``total_tokens``.
        whole: whether an answer may go on to a next question (the continuation of a passage, say).
        endings: counts how the answers end.

    Returns: the token ids of each answer, without the end-of-turn token.

    Raises:
        DataError: a prompt leaves the base no position for an answer.
        BaseModelError: the architecture can't be asked, or its logits are not finite.
    """
    positions = BaseLimits.of(base_model(model).config).positions

    def room(prompt_tokens: int) -> int:
        most = new_tokens or max(least, total_tokens - prompt_tokens)
        return most if positions is None else min(most, positions - prompt_tokens)

    _check_room(prompts, room, positions)
    stops = stop_tokens(model, tokenizer)
    next_turn = None if whole else ChatTemplate(tokenizer).next_turn()
    endings = endings if endings is not None else Endings()
    answers: list[list[int]] = [[]] * len(prompts)
    training = model.training
    model.eval()
    try:
        lengths = list(map(len, prompts))
        for rows in within_positions(batches(model, lengths, room, batch_rows), lengths, room, positions):
            told = _greedy(model, tokenizer, [prompts[row] for row in rows], room, stops, next_turn)
            for row, tokens in zip(rows, told, strict=True):
                answers[row] = ended(tokens, room(len(prompts[row])), stops, tokenizer, next_turn, endings)
            if progress:
                progress(len(rows))
    finally:
        model.train(training)
        release_freed_memory()
    return answers


def _check_room(prompts: Sequence[Sequence[int]], room: Callable[[int], int], positions: int | None) -> None:
    longest = max(map(len, prompts), default=0)
    if prompts and room(longest) < 1:
        raise DataError(
            f"A prompt takes {longest} tokens, and the base has {positions} positions, which leaves no room for an "
            "answer: shorten it."
        )


def _greedy(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    room: Callable[[int], int],
    stops: Sequence[int],
    next_turn: re.Pattern[str] | None,
) -> list[list[int]]:
    """What the model writes after each of these prompts, the longest of them first, in one batch."""
    width, shortest = len(prompts[0]), len(prompts[-1])
    ids = torch.full((len(prompts), width), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for at, prompt in enumerate(prompts):
        ids[at, width - len(prompt) :] = torch.tensor(prompt)
        mask[at, width - len(prompt) :] = 1
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=room(shortest),
        eos_token_id=list(stops) or None,
        pad_token_id=tokenizer.pad_token_id,
    )
    criteria = StoppingCriteriaList([_GiveBack()])
    if next_turn is not None:
        criteria.append(NextTurn(tokenizer, next_turn, width))
    device = cast(torch.device, model.device)
    with _only_setting(model, greedy):
        try:
            output = model.generate(  # type: ignore[operator]  # torch types a module's methods as tensors
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                stopping_criteria=criteria,
                logits_processor=LogitsProcessorList([_Finite(class_name(base_model(model)))]),
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # an architecture that it can't handle
            raise BaseModelError(
                f"{class_name(base_model(model))} can't be asked: transformers' generate ends in {first_line(error)}"
            ) from error
    return output[:, width:].tolist()


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
    found: Sequence[list[int]], lengths: Sequence[int], room: Callable[[int], int], positions: int | None
) -> Iterator[list[int]]:
    """Batches whose longest prompt has positions for as many tokens as the longest answer.

    A row that has ended goes on through the model with its batch, and a position too many ends in an IndexError.
    """
    for batch in found:
        part: list[int] = []
        for row in batch:
            if part and positions is not None and lengths[part[0]] + room(lengths[row]) > positions:
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


class _GiveBack(StoppingCriteria):
    """Stops nothing: on the CPU, gives freed memory back now and then.

    With every token keys and values move to new places a little larger, and glibc keeps the old ones: SmolLM2's answers
    to 40 questions took 0.45 GB and left as much behind; this way they take 0.34 and leave 0.05.
    """

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        if input_ids.device.type == "cpu" and input_ids.shape[1] % GIVEN_BACK == 0:
            release_freed_memory()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class _Finite(LogitsProcessor):
    """Changes nothing: refuses logits without a largest one, of which greedy decoding would make gibberish."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(scores.amax(-1)).all():  # NaN is passed on by it; a masked word at -inf is none
            raise BaseModelError(
                f"The logits of {self.name} are not finite: the weights of the base or of an adapter on it are damaged "
                "or hold NaN, or are too large for this precision (try --precision fp32)."
            )
        return scores


@contextmanager
def _only_setting(model: torch.nn.Module, config: GenerationConfig) -> Iterator[None]:
    """Inside, the model generates by ``config`` alone.

    A checkpoint's own settings (a repetition penalty, say) would fill whatever a config that is handed to
    ``generate`` leaves open, and a greedy answer is the model's, not its settings'.
    """
    base = cast(PreTrainedModel, base_model(model))
    kept, base.generation_config = base.generation_config, config
    try:
        yield
    finally:
        base.generation_config = kept


def enough_tokens(items: Sequence[Encoded], prompts: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Room for half as much again as the longest true answer.

    An answer that rambles on beyond that says nothing new, and waiting for it would double the time of a run.

    Returns:
        Most tokens of prompt and answer together, at most 200; and those of an answer to a longer prompt, at most 100.
    """
    answer = max((len(item.answer_ids) for item in items), default=0) * 3 // 2 + 8
    return min(TOTAL_TOKENS, max(map(len, prompts), default=0) + answer), max(16, min(LEAST_ANSWER, answer))
