"""Where an answer ends: at the end of the turn, at the next question, or at the length."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from asu_lora.data.chat_template import special_ids, stop_ids
from asu_lora.models.decoder import base_model


@dataclass
class Endings:
    """How answers came to an end, counted over calls.

    Attributes:
        answers: all of them.
        next_turn: cut off where the model went on to the next question.
        full: cut off by the length.
        plain: whether the tokenizer has no chat template, whose end of turn a base would have learned.
    """

    answers: int = 0
    next_turn: int = 0
    full: int = 0
    plain: bool = False

    def __add__(self, other: "Endings") -> "Endings":
        return Endings(
            self.answers + other.answers,
            self.next_turn + other.next_turn,
            self.full + other.full,
            self.plain or other.plain,
        )

    def note(self, what: str) -> str | None:
        """One sentence if the model leaves most answers unended, or some were cut off by the length."""
        unended = self.next_turn + self.full
        if self.plain and 2 * unended > self.answers:
            return (
                f"{what} doesn't end its answers: {unended} of {self.answers} went on, {self.next_turn} of them to a "
                "next question, and were cut off there; what stands before is scored."
            )
        if self.full:
            whose = what[:1].lower() + what[1:]
            return (
                f"{self.full} of {self.answers} answers of {whose} were longer than an answer may be and were cut off; "
                "what stands before the cut is scored."
            )
        return None


def stop_tokens(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids at which an answer ends: the tokenizer's, and those that the checkpoint names.

    A config's default (2, say) may be an ordinary token of this tokenizer: only special ones count.
    """
    base = cast(PreTrainedModel, base_model(model))
    named: set[int] = set()
    for config in (getattr(base, "generation_config", None), base.config.get_text_config()):
        told = getattr(config, "eos_token_id", None)
        named |= set(told if isinstance(told, list | tuple) else [] if told is None else [told])
    return sorted(set(stop_ids(tokenizer)) | named & set(special_ids(tokenizer)))


def ended(
    tokens: list[int],
    room: int,
    stops: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    next_turn: re.Pattern[str] | None,
    endings: Endings,
) -> list[int]:
    """The answer within what was written, and how it ended."""
    endings.answers += 1
    endings.plain = endings.plain or next_turn is not None
    tokens = tokens[:room]
    end = next((at for at, token in enumerate(tokens) if token in stops), None)
    answer = tokens[:end]
    if next_turn is not None:
        text = str(tokenizer.decode(answer, skip_special_tokens=True))
        if found := next_turn.search(text):
            endings.next_turn += 1
            return _tokens_of(answer, found.start(), tokenizer)
    endings.full += end is None and len(tokens) == room
    return answer


def _tokens_of(answer: list[int], characters: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """As many of the answer's tokens as make no more than so many characters."""
    low, high = 0, len(answer)
    while low < high:  # the text grows with the tokens
        middle = (low + high + 1) // 2
        if len(tokenizer.decode(answer[:middle], skip_special_tokens=True)) <= characters:
            low = middle
        else:
            high = middle - 1
    return answer[:low]


class NextTurn(StoppingCriteria):
    """Stops the rows whose answer has gone on to the next question."""

    TOKENS = 24  # that are read anew at every step: more than any beginning of a turn has

    def __init__(self, tokenizer: PreTrainedTokenizerBase, next_turn: re.Pattern[str], width: int):
        self.tokenizer, self.next_turn, self.width = tokenizer, next_turn, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        begin = max(self.width, input_ids.shape[1] - self.TOKENS)
        texts = self.tokenizer.batch_decode(input_ids[:, begin:], skip_special_tokens=True)
        found = [self.next_turn.search(text) is not None for text in texts]
        return torch.tensor(found, device=input_ids.device)
