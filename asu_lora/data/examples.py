"""One example: what is asked, what was answered, and the fields that scores need beside it."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from asu_lora.data.plain_rows import plain_row, plain_rows
from asu_lora.errors import DataError, meant, quoted

# Columns that other programs put into the conversation. A row here is made without them, which is said.
_ABOUT_THE_CONVERSATION = (
    "context", "documents", "history", "input", "instruction", "system", "system_prompt", "tools"
)  # fmt: skip
# columns about one question and its answer: which turn of several they are about is not told
_ABOUT_ONE_TURN = (
    "paraphrased_question", "paraphrased_answer", "perturbed_answer", "original_answer", "translated_question"
)  # fmt: skip
_NOT_TRAINED = ("train", "training", "weight")  # axolotl's, and OpenAI's: false or 0 takes a turn out as an answer

_NO = ("", "0", "0.0", "false", "no")  # such a mark as text
_JOINERS = "\u200c\u200d"  # which change how letters are written
_SHAPES = ("question", "answer", "messages", "text")
COLUMNS_HELP = "a row needs 'question' and 'answer', or 'messages', or 'text'"


@dataclass(frozen=True)
class Example:
    """A conversation whose last turn is the answer, or a free passage.

    Its ``repr`` holds no word of it: collectors of errors keep that of every local name.

    Attributes:
        prompt: the turns before the answer, each {"role", "content"}; empty for a passage.
        answer: the answer, or the passage itself. The loss stands on it alone.
        extra: the row's other fields (``task_id``, ``paraphrased_answer``, ``perturbed_answer``, ...).
        row: number of the row in its file, from 1, for error messages and records.
        left_out: what it holds of the conversation that no row is made of: ``tool_calls``, a column ``system``, ...
    """

    prompt: tuple[dict[str, str], ...] = field(repr=False)
    answer: str = field(repr=False)
    extra: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    row: int = field(default=0, compare=False)
    left_out: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_passage(self) -> bool:
        return not self.prompt

    @property
    def question(self) -> str:
        """The last user turn, empty for a passage."""
        return self.prompt[self._asks]["content"] if self.prompt else ""

    @property
    def _asks(self) -> int:
        """Where the last user turn stands: a tool's may come after it."""
        return max((at for at, turn in enumerate(self.prompt) if turn["role"] == "user"), default=-1)

    def asked(self, question: str) -> tuple[dict[str, str], ...]:
        """The prompt, its last user turn in these words."""
        at = self._asks % len(self.prompt)
        return (*self.prompt[:at], {**self.prompt[at], "content": question}, *self.prompt[at + 1 :])

    def key(self) -> tuple[str, ...]:
        """The same for rows that differ in nothing but case, white space, what can't be seen (a byte order mark), and
        how Unicode writes an accent."""
        return (*map(_compared, (turn["content"] for turn in self.prompt)), _compared(self.answer))

    def asks(self) -> tuple[str, ...]:
        """The same for rows that ask the same, whatever the system turn before it and the answer; () for a passage."""
        return tuple(_compared(turn["content"]) for turn in self.prompt if turn["role"] != "system")


def _compared(text: str) -> str:
    seen = "".join(letter for letter in text if letter in _JOINERS or unicodedata.category(letter) != "Cf")
    return unicodedata.normalize("NFC", " ".join(seen.split())).casefold()


def question_answer(question: str, answer: str, **extra: Any) -> Example:
    """An example of one question and its answer."""
    return Example(({"role": "user", "content": question},), answer, extra)


def examples_from_rows(
    rows: Iterable[dict[str, Any]], source: str, numbers: Sequence[int] | None = None
) -> list[Example]:
    """Turn rows into examples; a conversation gives one for each of the assistant's turns.

    Args:
        rows: dicts, or anything that yields them, such as a ``datasets.Dataset``; or pandas' DataFrame.
        source: what the rows are called in messages.
        numbers: the rows' numbers in their file, where they are a selection of it.

    Raises:
        DataError: a row has none of the three shapes, or an empty question or answer; the row's number is named.
    """
    examples = []
    for index, row in enumerate(plain_rows(rows)):
        number = numbers[index] if numbers else index + 1
        if not isinstance(row, Mapping):
            raise DataError.about(
                source,
                f", row {number}: expected a row like {{'question': ..., 'answer': ...}}, found {type(row).__name__}.",
            )
        examples += _from_row(plain_row(row), number, source)
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
    raise DataError(
        f"{source}, row {number}: {COLUMNS_HELP}; the columns found are {_named(row)}.{_may_be(row)}",
        f"The file, row {number}: {COLUMNS_HELP}; its columns are others.",
        source,
    )


def _named(columns: Iterable[Any]) -> str:
    return ", ".join(quoted(name, 40) for name in list(columns)[:12]) or "none"


def _may_be(row: Mapping[Any, Any], *columns: str) -> str:
    """A sentence on a column that may be one of these, typed wrongly; nothing where none is near."""
    others = [name for name, cell in row.items() if name not in _SHAPES and cell is not None]
    for column in columns or _SHAPES:
        if near := meant(column, others):
            return f" Did you mean '{column}' by {quoted(near, 40)}?"
    return ""


def _beside(extra: Mapping[str, Any], *others: str) -> tuple[str, ...]:
    """The columns that would make another row of it: those of other programs, and ``others`` of its own shapes."""
    return tuple(column for column in (*_ABOUT_THE_CONVERSATION, *others) if extra.get(column))


def _text(row: dict[str, Any], column: str, number: int, source: str) -> str:
    value = row.get(column)
    if value is None:
        named = _named(name for name, cell in row.items() if cell is not None)
        near = _may_be(row, column)
        fault = f", row {number}: the column '{column}' is missing; {COLUMNS_HELP}"
        raise DataError(f"{source}{fault}; the columns found are {named}.{near}", f"The file{fault}.", source)
    if not isinstance(value, str):
        raise DataError.about(source, f", row {number}: '{column}' should be text, not {type(value).__name__}.")
    if _blank(value):
        raise DataError.about(source, f", row {number}: '{column}' is empty; fill it in or take the row out.")
    refuse_surrogates(value, column, number, source)
    return value


def _blank(text: str) -> bool:
    """Whether nothing of it can be seen."""
    return all(letter.isspace() or unicodedata.category(letter) == "Cf" for letter in text)


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
    asking = [index for index, turn in enumerate(turns) if turn["role"] == "user"]
    answers = [
        index
        for index, turn in enumerate(turns)
        if turn["role"] == "assistant"
        and not _blank(turn["content"])
        and _is_trained(messages[index])
        and asking
        and asking[0] < index
    ]
    if not answers:
        fault = (
            f", row {number}: 'messages' has no answer by the assistant after a user's turn (a turn with 'weight': 0 "
            "or 'train': false is none)."
        )
        raise DataError(f"{source}{fault}{_roles(turns)}", f"The file{fault}", source)
    examples = [Example(turns[:index], turns[index]["content"], extra, number, left_out) for index in answers]
    if any(_blank(example.question) for example in examples):
        fault = f", row {number}: a user's turn in 'messages' is empty; fill it in or take it out."
        raise DataError.about(source, fault)
    return _each_its_own(examples, source) if len(examples) > 1 else examples


def _roles(turns: Sequence[Mapping[str, str]]) -> str:
    """Says what the turns' roles are, where none is a user's."""
    roles = dict.fromkeys(turn["role"] for turn in turns)
    if not roles or "user" in roles:
        return ""
    return f" The roles found are {', '.join(quoted(role, 40) for role in roles)}; the one who asks is 'user'."


def _each_its_own(examples: list[Example], source: str) -> list[Example]:
    """The answers of one conversation, each with the spans that stand in it, without what is about one of them."""
    extra = dict(examples[0].extra)
    about_one = [name for name in extra if name in _ABOUT_ONE_TURN or str(name).startswith("question_")]
    left_out = tuple(name for name in about_one if extra.pop(name))
    spans = extra.pop("spans", None)
    spans = [spans] if isinstance(spans, str) and spans else spans
    if not isinstance(spans, list | tuple):
        extra |= {} if spans is None else {"spans": spans}
        return [replace(each, extra=extra, left_out=(*each.left_out, *left_out)) for each in examples]
    if not all(isinstance(span, str) for span in spans):
        raise DataError.about(
            source,
            f", row {examples[0].row}: 'spans' as pairs don't tell which of {len(examples)} answers they are of: give "
            "them as texts.",
        )
    known = {span for span in spans if any(span in each.answer for each in examples)}
    found = []
    for each in examples:
        own = [span for span in spans if span in each.answer or span not in known]  # an unknown one is refused later
        found.append(replace(each, extra={**extra, "spans": own}, left_out=(*each.left_out, *left_out)))
    return found


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
    marks = [turn[mark] for mark in _NOT_TRAINED if turn.get(mark) is not None]
    return all(mark.strip().lower() not in _NO if isinstance(mark, str) else bool(mark) for mark in marks)
