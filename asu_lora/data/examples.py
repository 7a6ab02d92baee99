"""One example: what is asked, what was answered, and the fields that scores need beside it."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asu_lora.errors import DataError, quoted

# Columns that other programs put into the conversation. A row here is made without them, which is said.
_ABOUT_THE_CONVERSATION = (
    "context", "documents", "history", "input", "instruction", "system", "system_prompt", "tools"
)  # fmt: skip
_NOT_TRAINED = ("train", "training", "weight")  # axolotl's, and OpenAI's: false or 0 takes a turn out as an answer

COLUMNS_HELP = "a row needs 'question' and 'answer', or 'messages', or 'text'"


@dataclass(frozen=True)
class Example:
    """A conversation whose last turn is the answer, or a free passage.

    Attributes:
        prompt: the turns before the answer, each {"role", "content"}; empty for a passage.
        answer: the answer, or the passage itself. The loss stands on it alone.
        extra: the row's other fields (``task_id``, ``paraphrased_answer``, ``perturbed_answer``, ...).
        row: number of the row in its file, from 1, for error messages and records.
        left_out: what it holds of the conversation that no row is made of: ``tool_calls``, a column ``system``, ...
    """

    prompt: tuple[dict[str, str], ...]
    answer: str
    extra: dict[str, Any] = field(default_factory=dict, compare=False)
    row: int = field(default=0, compare=False)
    left_out: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_passage(self) -> bool:
        return not self.prompt

    @property
    def question(self) -> str:
        """The last user turn, empty for a passage."""
        return self.prompt[-1]["content"] if self.prompt else ""

    def key(self) -> tuple[str, ...]:
        """The same for rows that differ in nothing but case, white space and how Unicode writes an accent."""
        texts = (*(t["content"] for t in self.prompt), self.answer)
        return tuple(unicodedata.normalize("NFC", " ".join(text.split())).casefold() for text in texts)


def question_answer(question: str, answer: str, **extra: Any) -> Example:
    """An example of one question and its answer."""
    return Example(({"role": "user", "content": question},), answer, extra)


def examples_from_rows(
    rows: Iterable[dict[str, Any]], source: str, numbers: Sequence[int] | None = None
) -> list[Example]:
    """Turn rows into examples; a conversation gives one for each of the assistant's turns.

    Args:
        rows: dicts, or anything that yields them, such as a ``datasets.Dataset``.
        source: what the rows are called in messages.
        numbers: the rows' numbers in their file, where they are a selection of it.

    Raises:
        DataError: a row has none of the three shapes, or an empty question or answer; the row's number is named.
    """
    examples = []
    for index, row in enumerate(rows):
        number = numbers[index] if numbers else index + 1
        if not isinstance(row, Mapping):
            raise DataError.about(
                source,
                f", row {number}: expected a row like {{'question': ..., 'answer': ...}}, found {type(row).__name__}.",
            )
        examples += _from_row(row, number, source)
    return examples


def as_row(example: Example) -> dict[str, Any]:
    """A row that gives this example and no other; its extra fields are left out."""
    if example.is_passage:
        return {"text": example.answer}
    if [turn["role"] for turn in example.prompt] == ["user"]:
        return {"question": example.question, "answer": example.answer}
    prompt = [{**turn, "weight": 0} if turn["role"] == "assistant" else dict(turn) for turn in example.prompt]
    return {"messages": [*prompt, {"role": "assistant", "content": example.answer}]}


def left_out_note(examples: Sequence[Example]) -> str | None:
    """One sentence on what belongs to a conversation and stands in no row; None if there is nothing."""
    rows = {example.row for example in examples if example.left_out}
    fields = dict.fromkeys(str(name) for example in examples for name in example.left_out)
    if not fields:
        return None
    named = ", ".join(map(repr, fields))
    return (
        f"{len(rows)} {'row has' if len(rows) == 1 else 'rows have'} {named}, which is left out: "
        "of a conversation a row holds the turns' roles and contents."
    )


def _from_row(row: dict[str, Any], number: int, source: str) -> list[Example]:
    if row.get("messages") is not None:
        return _from_messages(row, number, source)
    if row.get("question") is not None or row.get("answer") is not None:
        question, answer = (_text(row, column, number, source) for column in ("question", "answer"))
        extra = {key: value for key, value in row.items() if key not in ("question", "answer")}
        return [Example(({"role": "user", "content": question},), answer, extra, number, _beside(extra, "text"))]
    if row.get("text") is not None:
        extra = {key: value for key, value in row.items() if key != "text"}
        return [Example((), _text(row, "text", number, source), extra, number)]
    found = ", ".join(quoted(name, 40) for name in list(row)[:12]) or "none"
    raise DataError(
        f"{source}, row {number}: {COLUMNS_HELP}; the columns found are {found}.",
        f"The file, row {number}: {COLUMNS_HELP}; its columns are others.",
        source,
    )


def _beside(extra: Mapping[str, Any], *others: str) -> tuple[str, ...]:
    """The columns that would make another row of it: those of other programs, and ``others`` of its own shapes."""
    return tuple(column for column in (*_ABOUT_THE_CONVERSATION, *others) if extra.get(column))


def _text(row: dict[str, Any], column: str, number: int, source: str) -> str:
    value = row.get(column)
    if value is None:
        raise DataError.about(source, f", row {number}: the column '{column}' is missing; {COLUMNS_HELP}.")
    if not isinstance(value, str):
        raise DataError.about(source, f", row {number}: '{column}' should be text, not {type(value).__name__}.")
    if all(letter.isspace() or unicodedata.category(letter) == "Cf" for letter in value):
        raise DataError.about(source, f", row {number}: '{column}' is empty; fill it in or take the row out.")
    refuse_surrogates(value, column, number, source)
    return value


def refuse_surrogates(text: str, column: str, number: int, source: str) -> None:
    """JSON can write half of a surrogate pair (\\ud800), which is no character and which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError.about(
            source,
            f", row {number}: '{column}' holds {text[error.start]!r}, which is half a character (a broken emoji, "
            "perhaps): mend it.",
        ) from error


def _from_messages(row: dict[str, Any], number: int, source: str) -> list[Example]:
    messages = row["messages"]
    if isinstance(messages, list | tuple):
        messages = [_as_text(turn) for turn in messages]
    if not isinstance(messages, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in messages
    ):
        raise DataError.about(
            source,
            f", row {number}: 'messages' should be a list of "
            '{"role": ..., "content": ...} turns with text in them.',
        )
    for turn in messages:
        refuse_surrogates(turn["role"] + turn["content"], "messages", number, source)
    turns = tuple({"role": turn["role"], "content": turn["content"]} for turn in messages)
    extra = {key: value for key, value in row.items() if key != "messages"}
    used = ("role", "content", "name", "id", *_NOT_TRAINED)  # all but the first two are about a turn: nobody said them
    beside = (key for turn in messages for key in turn if turn[key] and key not in used)
    left_out = tuple(dict.fromkeys((*beside, *_beside(extra, "question", "answer", "text"))))
    examples = [
        Example(turns[:index], turn["content"], extra, number, left_out)
        for index, turn in enumerate(turns)
        if turn["role"] == "assistant" and index > 0 and turn["content"].strip() and _is_trained(messages[index])
    ]
    if not examples:
        raise DataError.about(
            source,
            f", row {number}: 'messages' has no answer by the assistant after a user's turn (a turn with 'weight': 0 "
            "or 'train': false is none).",
        )
    return examples


def _as_text(turn: Any) -> Any:
    """A turn whose content is written in parts, as those with images are, as one text; other parts stay as they are.

    A turn that only calls a tool has null for a content: it says nothing.
    """
    if not isinstance(turn, Mapping):
        return turn
    content = turn.get("content")
    if content is None and (turn.get("tool_calls") or turn.get("function_call")):
        return {**turn, "content": ""}
    if not isinstance(content, list | tuple) or not content:
        return turn
    texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type", "text") == "text"]
    if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
        return turn
    return {**turn, "content": "".join(map(str, texts))}


def _is_trained(turn: Mapping[str, Any]) -> bool:
    """Whether a turn is an answer, and no mere part of the prompts after it."""
    return all(turn.get(mark) is None or bool(turn[mark]) for mark in _NOT_TRAINED)
