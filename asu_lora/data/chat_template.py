"""What a tokenizer's chat template writes around a question and its answer.

The template itself is asked: it writes the question with a mark for an answer, and what stands before the mark
is the prompt, what follows it the end of the turn. So thinking blocks (Qwen3), channel markers (gpt-oss) and spaces
("[/INST] answer") stand where the served conversation has them. A tokenizer without a template gets
"Question: ... Answer:".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from asu_lora.errors import DataError

PLAIN_PROMPT = "Question: {question}\nAnswer:"  # for a base whose tokenizer has no chat template
# where such a base goes on to a turn of its own, in the middle of an answer
PLAIN_NEXT_TURN = re.compile(r"\bQuestion:|(?<=\n)Answer:")
_MARK, _NEXT = "\u00a4answer\u00a4", "\u00a4question\u00a4"
_DIRECTIVES = [f"{flag}{letter}" for letter in "aAbBcdDeFGhHIjklmMnprRsStTuUVwWxXyYzZ" for flag in ("", "-")]

Turns = Sequence[Mapping[str, str]]


class Row(NamedTuple):
    """The text of one row: what is given, what is answered, and the end of turn after it."""

    prompt: str
    answer: str
    end: str


class _Frame(NamedTuple):
    """What a template writes around an answer; ``after`` is None where it can't be asked."""

    generation: str
    before: str
    after: str | None


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template, or the plain prompt where it has none.

    Attributes:
        tokenizer: whose template it is.
        system_prompt: put before every conversation that has no system turn of its own.
        date: what the template takes for today (``YYYY-MM-DD``); None leaves it to the clock.
    """

    tokenizer: PreTrainedTokenizerBase
    system_prompt: str | None = None
    date: str | None = None

    @cached_property
    def template(self) -> str | None:
        """The template's text: of several named ones the default, or the only one."""
        found = self.tokenizer.chat_template
        if isinstance(found, dict):
            if "default" not in found and len(found) > 1:
                raise DataError.plain(
                    f"The base's tokenizer has several chat templates ({', '.join(sorted(found))}) and none is called "
                    "'default': name one of them so in its tokenizer's files."
                )
            found = found.get("default") or next(iter(found.values()), None)
        return found or None

    @cached_property
    def writes_the_date(self) -> bool:
        """Whether the template writes today's date."""
        if not self.template or "strftime_now" not in self.template:
            return False
        texts = {
            ChatTemplate(self.tokenizer, self.system_prompt, day).prompt([{"role": "user", "content": "q"}])
            for day in ("2001-01-01", "2022-12-31")
        }
        return len(texts) > 1

    def prompt(self, turns: Turns) -> str:
        """The text that stands before an answer.

        Raises:
            DataError: the template refuses these turns.
        """
        return self._frame(turns)[0]

    def row(self, turns: Turns, answer: str) -> Row:
        """The texts of a question and its answer, as the template writes them.

        Raises:
            DataError: the template refuses these turns.
        """
        if not self.template:
            return Row(self.prompt(turns), " " + answer.lstrip(), self.tokenizer.eos_token or "")
        prompt, frame = self._frame(turns)
        end = self._end(frame.after)
        if frame.after is None:
            return Row(prompt, answer, end)
        whole = self._render([*self._with_system(turns), {"role": "assistant", "content": answer}])
        start = next((text for text in (prompt, frame.generation) if whole.startswith(text)), None)
        if start is None:  # this answer is written another way than the mark was
            return Row(prompt, answer, end)
        said = whole[len(start) :].removesuffix(frame.after) if frame.after else whole[len(start) :]
        if frame.after and not whole.endswith(frame.after):
            said = said.rpartition(end)[0] if end and end in said else said
        return Row(start, said, end)

    def next_turn(self) -> re.Pattern[str] | None:
        """Where a model that doesn't end its answer goes on to the next question; None if templates are enough."""
        return None if self.template else PLAIN_NEXT_TURN

    @cached_property
    def end_of_turn(self) -> str:
        """The special token with which an answer ends; else the EOS token, or nothing."""
        if not self.template:
            return self.tokenizer.eos_token or ""
        try:
            return self._end(self._frame([{"role": "user", "content": "q"}])[1].after).lstrip()
        except DataError:  # a template that can't be asked this way says nothing about its end of turn
            return self.tokenizer.eos_token or ""

    def notes(self) -> list[str]:
        """What a person should know of the rows that this template gives, one sentence each."""
        if not self.template:
            return [
                "The base's tokenizer has no chat template: questions are asked as 'Question: ... Answer:', and an "
                "answer ends where the next question would begin."
            ]
        try:
            prompt, frame = self._frame([{"role": "user", "content": "q"}])
        except DataError:  # said with the row that it refuses
            return []
        if frame.after is None:
            return [
                "The base's chat template can't be asked what it writes around an answer: rows are its generation "
                f"prompt, the answer and {self._end(None)!r}."
            ]
        notes = []
        if prompt.startswith(frame.generation) and len(prompt) > len(frame.generation):
            notes.append(
                f"The base's chat template writes {prompt[len(frame.generation) :]!r} before an answer, which its "
                "generation prompt leaves out: training, scores and questions have it, without loss on it."
            )
        elif frame.generation.startswith(prompt) and frame.generation[len(prompt) :].strip():
            notes.append(
                f"The base's chat template ends its generation prompt with {frame.generation[len(prompt) :]!r}, which "
                "it doesn't write before an answer that is given: training, scores and questions go without."
            )
        if not self._written_end(frame.after):
            notes.append(
                f"The base's chat template ends an answer with {frame.after!r} and no special token: rows end with "
                f"{self.end_of_turn!r} instead."
                if self.end_of_turn
                else "Neither the base's chat template nor its tokenizer has a token that ends an answer."
            )
        return notes

    def _frame(self, turns: Turns) -> tuple[str, _Frame]:
        """The prompt, and what the template writes around an answer to these turns."""
        turns = self._with_system(turns)
        if not self.template:
            text = "".join(
                PLAIN_PROMPT.format(question=turn["content"]) if turn["role"] == "user" else f" {turn['content']}\n\n"
                for turn in turns
            )
            return text, _Frame(text, text, None)
        if self._contents == "none":
            raise DataError.plain(
                "The base's chat template writes nothing of what a user says, so no row can be made with it: use the "
                "tokenizer that belongs to these weights."
            )
        generation = self._render(turns, generation=True)
        try:
            whole = self._render([*turns, {"role": "assistant", "content": _MARK}])
        except DataError:  # it takes no answer: what it writes around one stays unknown
            return generation, _Frame(generation, generation, None)
        before, mark, after = whole.rpartition(_MARK)
        if not mark:
            return generation, _Frame(generation, generation, None)
        frame = _Frame(generation, before, after)
        if before.startswith(generation):
            between = before[len(generation) :]
            # a space belongs to the first word of the answer, as tokenizers have it
            return generation + (between.rstrip(" ") if between.strip() else ""), frame
        return before.rstrip(" "), frame

    def _written_end(self, after: str) -> str:
        """What the template writes after an answer, through its first special token; empty without one."""
        found = [(after.find(token), -len(token), token) for token in self._end_tokens() if token in after]
        if not found:
            return ""
        at, _, token = min(found)
        return after[: at + len(token)]

    def _end(self, after: str | None) -> str:
        """The text that ends an answer."""
        return (self._written_end(after) if after is not None else "") or self.tokenizer.eos_token or ""

    def _end_tokens(self) -> set[str]:
        # some tokenizers don't mark theirs (<end_of_turn>, <|end|>) as special: any added token may be it
        tokens = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        tokens |= set(self.tokenizer.all_special_tokens)
        return {token for token in tokens if token.strip()} - {self.tokenizer.bos_token}

    def _with_system(self, turns: Turns) -> list[dict[str, str]]:
        own = [dict(turn) for turn in turns]
        if self.system_prompt and not any(turn["role"] in ("system", "developer") for turn in own):
            return [{"role": "system", "content": self.system_prompt}, *own]
        return own

    @cached_property
    def _contents(self) -> str:
        """How the template takes what is said: as ``text``, in ``parts`` (as some of vision models do), or ``none``."""
        for kind in ("text", "parts"):
            try:
                written = self._written([{"role": "user", "content": _NEXT}], kind)
            except DataError:  # one that refuses such a conversation says nothing about it
                return "text"
            if _NEXT.casefold() in written.casefold():
                return kind
        return "none"

    def _render(self, turns: Turns, generation: bool = False) -> str:
        return self._written(turns, self._contents, generation)

    def _written(self, turns: Turns, contents: str, generation: bool = False) -> str:
        template = self.template
        conversation: list[dict[str, Any]] = [dict(turn) for turn in turns]
        for turn in conversation if contents == "parts" else ():
            turn["content"] = [{"type": "text", "text": turn["content"]}]
        if self.date and template and "strftime_now" in template:
            template = _dated(date.fromisoformat(self.date)) + template
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    conversation, chat_template=template, add_generation_prompt=generation, tokenize=False
                )
            )
        except Exception as error:  # jinja2 errors, and whatever a template raises on roles it doesn't take
            roles = ", ".join(turn["role"] for turn in turns)
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise DataError(
                f"The base's chat template refuses a conversation of turns {roles} ({reason[:200]}): "
                "write its rows another way.",
                "The base's chat template refuses a conversation with the turns of a row: write the row another way.",
            ) from error


def _dated(day: date) -> str:
    """A template's beginning that makes ``strftime_now`` tell ``day``: transformers hands no function to templates."""
    moment = datetime(day.year, day.month, day.day)
    told = [(f"%{code}", moment.strftime(f"%{code}")) for code in _DIRECTIVES]
    filters = "".join(f"|replace({code!r}, {text!r})" for code, text in told if text and text != code)
    return "{%- macro strftime_now(format) -%}{{ format" + filters + " }}{%- endmacro %}{{ '' }}"


def pinned_date(tokenizer: PreTrainedTokenizerBase, wanted: str | None = None) -> str | None:
    """The date that rows are written with: the wanted one, else today's; None where the template writes none."""
    if not ChatTemplate(tokenizer).writes_the_date:
        return None
    return wanted or date.today().isoformat()


def undated_note(wanted: str | None, day: str | None) -> str | None:
    """Say that a date was given and stands nowhere, ``day`` being what rows are written with."""
    return None if day or not wanted else "The base's chat template writes no date: --template-date changes nothing."


def end_of_turn_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """The special token with which the chat template ends an assistant's turn; else the EOS token."""
    return ChatTemplate(tokenizer).end_of_turn


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids at which an answer ends: the template's end of turn and the tokenizer's EOS."""
    ids = tokenizer(end_of_turn_text(tokenizer), add_special_tokens=False).input_ids
    found = set(ids[:1]) if len(ids) == 1 else set()
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    return sorted(found)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of tokens that structure a conversation and are no part of an answer's text."""
    ids = set(tokenizer.all_special_ids) | set(stop_ids(tokenizer))
    ids |= {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted(ids)
