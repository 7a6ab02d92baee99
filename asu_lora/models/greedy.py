"""What a model writes after each of some prompts, greedily, in one batch that gets smaller as answers end.

In a batch every row goes through the model until the last one has ended, and the longest answer is often three times
the mean one. So a batch is written in laps of a few tokens, and after each the rows that have ended leave it, with
their keys and values. Rows see nothing of one another: what is written is the same but for rounding.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, cast

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
from transformers.cache_utils import DynamicCache, DynamicLayer

from asu_lora.errors import BaseModelError, first_line
from asu_lora.hardware.memory import release_freed_memory
from asu_lora.models.answer_ends import NextTurn
from asu_lora.models.decoder import base_model, class_name

LAP = 16  # tokens; rows leave the batch after each lap
GIVEN_BACK = 16  # tokens after which freed memory goes back to the system

Acting = Callable[[Sequence[int]], AbstractContextManager[Any]]  # what is on while these rows write


class Ends(NamedTuple):
    """What ends an answer: a token, or a text."""

    stops: tuple[int, ...]
    next_turn: re.Pattern[str] | None = None

    def ended(self, tokens: list[int], room: int, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether these tokens are all that there will be of an answer."""
        if len(tokens) >= room or not set(self.stops).isdisjoint(tokens):
            return True
        return self.next_turn is not None and bool(
            self.next_turn.search(str(tokenizer.decode(tokens, skip_special_tokens=True)))
        )


def write_greedily(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    rooms: Sequence[int],
    ends: Ends,
    *,
    acting: Acting = nullcontext,
) -> list[list[int]]:
    """What the model writes after each prompt.

    Args:
        prompts: token ids.
        rooms: the most tokens after each.
        acting: gets the numbers of the rows that write, and gives what must be on for them.

    Returns:
        The new tokens of each, at least to where it ends; what stands behind is of no meaning.

    Raises:
        BaseModelError: transformers can't generate with this architecture, or its logits are not finite.
    """
    ids, mask = padded_on_the_left(prompts, cast(int, tokenizer.pad_token_id))
    width = ids.shape[1]
    criteria = StoppingCriteriaList([_GiveBack()])
    if ends.next_turn is not None:
        criteria.append(NextTurn(tokenizer, ends.next_turn, width))
    device = cast(torch.device, model.device)
    ids, mask = ids.to(device), mask.to(device)

    def write(tokens: int, rows: Sequence[int], **given: Any) -> Any:
        with acting(rows):
            return generate(
                model, tokenizer, ends.stops, tokens, stopping_criteria=criteria, return_dict_in_generate=True, **given
            )

    most = max(rooms)
    everyone = range(len(prompts))
    lap = write(min(LAP, most), everyone, input_ids=ids, attention_mask=mask)
    if most > LAP and not may_shrink(lap.past_key_values):
        return write(most, everyone, input_ids=ids, attention_mask=mask).sequences[:, width:].tolist()
    return _in_laps(lap, mask, rooms, lambda tokens, room: ends.ended(tokens, room, tokenizer), write)


def generate(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int], tokens: int, **given: Any
) -> Any:
    """transformers' ``generate``, greedily and by no setting of the checkpoint's own.

    Args:
        tokens: the most new ones.
        given: the rest of what ``generate`` takes.

    Raises:
        BaseModelError: transformers can't generate with this architecture, or its logits are not finite.
    """
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=tokens, eos_token_id=list(stops) or None, pad_token_id=tokenizer.pad_token_id
    )
    name = class_name(base_model(model))
    with _only_setting(model, greedy):
        try:
            return model.generate(  # type: ignore[operator]  # torch types a module's methods as tensors
                logits_processor=LogitsProcessorList([_Finite(name)]), **given
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # one that it can't handle
            raise BaseModelError(
                f"{name} can't be asked: transformers' generate ends in {first_line(error)}"
            ) from error


def _in_laps(
    lap: Any,
    mask: torch.Tensor,
    rooms: Sequence[int],
    ended: Callable[[list[int], int], bool],
    write: Callable[..., Any],
) -> list[list[int]]:
    """Go on from a first lap until every row has ended.

    Args:
        lap: what generate gave.
        mask: (b, L) of the prompts.
        ended: whether a row has, by its tokens and its room.
        write: so many tokens more, from these.
    """
    told: list[list[int]] = [[] for _ in rooms]
    rows, width = list(range(len(rooms))), mask.shape[1]
    while True:
        ids = lap.sequences
        for row, tokens in zip(rows, ids[:, width:].tolist(), strict=True):
            told[row] = tokens
        going = [at for at, row in enumerate(rows) if not ended(told[row], rooms[row])]
        if not going:
            return told
        cache, rows = lap.past_key_values, [rows[at] for at in going]
        if len(going) < len(ids):
            kept = torch.tensor(going, device=ids.device)
            cache.batch_select_indices(kept)
            ids, mask = ids[kept], mask[kept]
        left = max(rooms[row] - len(told[row]) for row in rows)
        seen = torch.cat([mask, mask.new_ones(len(rows), ids.shape[1] - width)], 1)
        lap = write(min(LAP, left), rows, input_ids=ids, attention_mask=seen, past_key_values=cache)


def may_shrink(cache: Any) -> bool:
    """Whether rows can be taken out of a cache and the rest gone on with: keys and values of whole attention alone."""
    return type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers)


def padded_on_the_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of a batch, (b, L) each."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros_like(ids)
    for at, prompt in enumerate(prompts):
        ids[at, width - len(prompt) :] = torch.tensor(prompt)
        mask[at, width - len(prompt) :] = 1
    return ids, mask


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
