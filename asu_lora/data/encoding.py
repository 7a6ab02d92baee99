"""Examples into token ids, as the tokenizer's chat template writes the conversation; loss on the answer alone.

Prompt tokens carry no loss; answers end with the template's end-of-turn token, so that a model that has
forgotten still knows when to stop. A passage carries loss on all its tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from asu_lora.data.chat_template import PLAIN_PROMPT, ChatTemplate
from asu_lora.data.examples import Example
from asu_lora.data.row_format import BaseLimits, RowFormat
from asu_lora.errors import DataError

__all__ = ["PLAIN_PROMPT", "Encoded", "Encoder", "cut_note", "encoder_for"]


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example.

    Attributes:
        prompt_ids: what the model is given; no loss.
        answer_ids: what it must answer, ending with the end-of-turn token (a passage: all its tokens but the
            first, which nothing precedes).
        example: index of the example it came from (long passages give several).
        cut: whether ``max_length`` cut the answer off.
        end: how many of ``answer_ids``, at their end, are the end of turn.
        padding: how many of ``answer_ids``, at their end, no other token attends to.
        begin: how many tokens of a passage stand before ``answer_ids``.
    """

    prompt_ids: tuple[int, ...] = field(repr=False)  # a tokenizer makes text of them
    answer_ids: tuple[int, ...] = field(repr=False)
    example: int = 0
    cut: bool = False
    end: int = 0
    padding: int = 0
    begin: int = 0

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


class Encoder:
    """Encodes examples with one tokenizer.

    Args:
        tokenizer: the base's tokenizer.
        max_length: the most tokens an example may have, prompt included. Longer answers are cut off (and
            counted); longer passages are split.
        limits: what the base can take; rows are cut to its positions too.
        system_prompt, date: see :class:`asu_lora.data.chat_template.ChatTemplate`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 512,
        limits: BaseLimits | None = None,
        system_prompt: str | None = None,
        date: str | None = None,
    ):
        self.tokenizer = tokenizer
        self.limits = limits or BaseLimits()
        self.asked_length = max_length
        self.max_length = min(max_length, self.limits.longest_row or max_length)
        self.template = ChatTemplate(tokenizer, system_prompt, date)
        self._leading, self._trailing = _added_tokens(tokenizer)

    def prompt_text(self, prompt: Sequence[Mapping[str, str]]) -> str:
        """The text that stands before the answer.

        Raises:
            DataError: the chat template refuses these turns.
        """
        return self.template.prompt(prompt)

    def prompt_ids(self, prompt: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of what the model is given.

        Raises:
            DataError: the template refuses the turns, or the base can't take the tokens.
        """
        ids = self._ids(self.prompt_text(prompt))
        self._check_vocabulary(ids, "the question")
        if self.limits.positions and len(ids) >= self.limits.positions:
            raise DataError.plain(
                f"The prompt of the question takes {len(ids)} tokens, and the base has {self.limits.positions} "
                "positions, which leaves no room for an answer: shorten it."
            )
        return ids

    def encode(self, example: Example, index: int = 0, what: str = "row") -> list[Encoded]:
        """Encode one example: one item, or several for a long passage.

        Raises:
            DataError: the answer tokenises to nothing, the prompt leaves no room for it, or the base's embedding
                lacks a token.
        """
        where = f"{what} {example.row or index + 1}"
        if example.is_passage:
            return self._encode_passage(example, index, where)
        if not self.tokenizer(example.answer.strip(), add_special_tokens=False).input_ids:
            raise DataError.plain(f"The answer of {where} tokenises to nothing with this base's tokenizer.")
        row = self.template.row(example.prompt, example.answer)
        prompt, whole = self._ids(row.prompt), self._ids(row.prompt + row.answer + row.end)
        self._check_vocabulary(whole, where)
        # the whole decides: a tokenizer may draw the last of the prompt and the first of the answer into one token
        shared = next((at for at, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
        answer, room = whole[shared:], self.max_length - shared
        if room < 2:
            raise DataError.plain(
                f"The prompt of {where} takes {len(prompt)} tokens and leaves no room for its answer: "
                + self._way_out()
            )
        end = self.tokenizer(row.end.strip(), add_special_tokens=False).input_ids if row.end else []
        ended = len(answer) <= room and answer[len(answer) - len(end) :] == end
        return [
            Encoded(tuple(whole[:shared]), tuple(answer[:room]), index, len(answer) > room, len(end) if ended else 0)
        ]

    def encode_all(self, examples: Sequence[Example], what: str = "row") -> list[Encoded]:
        """Encode many examples in order."""
        return [item for index, example in enumerate(examples) for item in self.encode(example, index, what)]

    def notes(self) -> list[str]:
        """What a person should know of these rows: what the template adds, leaves out or dates, and the length."""
        notes = self.template.notes()
        if self.template.date and self.template.writes_the_date:
            notes.append(f"The base's chat template writes a date: {self.template.date} stands in every prompt.")
        if self.max_length < self.asked_length:
            notes.append(
                f"The base has {self.limits.positions} positions: rows are cut to them, and passages split, although "
                f"--max-length is {self.asked_length}."
            )
        return notes

    def _encode_passage(self, example: Example, index: int, where: str) -> list[Encoded]:
        ids = self.tokenizer(example.answer, add_special_tokens=False).input_ids
        if not ids:
            raise DataError.plain(f"The text of {where} tokenises to nothing with this base's tokenizer.")
        ids = [*self._leading, *ids, *self._trailing]
        self._check_vocabulary(ids, where)
        if len(ids) < 2:
            raise DataError.plain(f"The text of {where} is a single token: there is nothing to predict in it.")
        # each window repeats the last token of the one before, so that every token but the first is predicted once
        step = self.max_length - 1
        windows = ((at + 1, ids[at : at + self.max_length]) for at in range(0, len(ids) - 1, step))
        before = len(self._leading)
        return [
            Encoded(tuple(w[:1]), tuple(w[1:]), index, begin=max(0, at - before)) for at, w in windows if len(w) > 1
        ]

    def _ids(self, text: str) -> list[int]:
        """Ids of a conversation; without a template, after what the tokenizer itself puts before a text."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids if self.template.template else [*self._leading, *ids]

    def _check_vocabulary(self, ids: Sequence[int], where: str) -> None:
        most = self.limits.vocabulary
        if most is None or max(ids, default=0) < most:
            return
        beyond = next(token for token in ids if token >= most)
        rest = (
            f"in {where}, and the base's embedding has {most} rows: use the tokenizer that belongs to these weights, "
            "or resize the embedding and train it."
        )
        raise DataError(
            f"The tokenizer writes {self.tokenizer.convert_ids_to_tokens(beyond)!r} (id {beyond}) {rest}",
            f"The tokenizer writes an id beyond them {rest}",
        )

    def _way_out(self) -> str:
        if self.max_length < self.asked_length:
            return f"the base has {self.limits.positions} positions, so shorten it."
        return f"raise --max-length above {self.max_length}."


def encoder_for(tokenizer: PreTrainedTokenizerBase, model_config: Any, rows: RowFormat) -> Encoder:
    """The encoder of a base's rows: training, scoring and asking all use this one.

    Args:
        model_config: the base's transformers config, which tells its positions and its embedding's rows.
    """
    return Encoder(tokenizer, rows.max_length, BaseLimits.of(model_config), rows.system_prompt, rows.template_date)


def cut_note(items: Sequence[Encoded], max_length: int, what: str, use: str = "scored") -> str | None:
    """One sentence on the answers that the length cut off; None if there are none.

    Args:
        what: of which set they are: ``forget``, ``retain``, ...
        use: what is not done with the rest.
    """
    cut = sum(item.cut for item in items)
    if not cut:
        return None
    return (
        f"{cut} of {len(items)} {what} answers are longer than --max-length {max_length} and were cut off: what stands "
        f"beyond it is not {use}."
    )


def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the tokenizer itself puts before and after a text: <s>, or nothing."""
    inner = tokenizer("a", add_special_tokens=False).input_ids
    outer = tokenizer("a").input_ids
    for at in range(len(outer) - len(inner) + 1):
        if outer[at : at + len(inner)] == inner:
            return outer[:at], outer[at + len(inner) :]
    return [], []
