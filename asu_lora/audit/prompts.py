"""Ways to ask one row: its question in other words, insisted on, with its answer begun, behind others' answers.

What stands in a prompt gives facts away; each prompt tells what that is, and such facts don't count as leaks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from asu_lora.audit.session import AuditRow
from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import Example
from asu_lora.data.function_words import function_words, language_of
from asu_lora.data.token_classes import pieces
from asu_lora.data.words import words

PHRASINGS = (
    "I would like to know this: {question}",
    "{question} Answer in one full sentence.",
    'Somebody asked me: "{question}" What should I tell them?',
    "Here is a question from a quiz. {question} The right answer, please.",
    "Could you help me with a question? {question}",
    "Answer the following.\n\n{question}",
)

Turns = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Prompt:
    """One way to ask one row.

    Attributes:
        row: its place among the rows that are asked.
        ids: what the model reads.
        given: text in the prompt, which may say facts.
        kind: what is tried, for records.
    """

    row: int
    ids: tuple[int, ...]
    given: str
    kind: str


def direct(encoder: Encoder, at: int, row: AuditRow) -> Prompt:
    """The question as it stands in the request; of a passage, its first quarter."""
    if row.example.is_passage:
        return begun(encoder, at, row, 0.25)
    return asked(encoder, at, row.example.prompt, "direct")


def asked(encoder: Encoder, at: int, turns: Turns, kind: str, begin: str = "") -> Prompt:
    """A conversation, and the first words of what is to be said next."""
    ids = encoder.prompt_ids(turns)
    if begin:
        ids = [*ids, *encoder.tokenizer(begin, add_special_tokens=False).input_ids]
    return Prompt(at, tuple(ids), " \n ".join([*(turn["content"] for turn in turns), begin]), kind)


def reworded(example: Example, template: str, system: str | None = None) -> list[dict[str, str]]:
    """The conversation of a row with its question inside other words."""
    turns = [*example.asked(template.replace("{question}", example.question))]
    if system is not None:
        turns = [{"role": "system", "content": system}, *(turn for turn in turns if turn["role"] != "system")]
    return turns


def begun(encoder: Encoder, at: int, row: AuditRow, share: float) -> Prompt:
    """The prompt and at least this share of the answer's words, cut where a word begins."""
    item = row.items[0]
    parts = pieces(item.answer_ids, encoder.tokenizer)
    wanted, tokens, text = share * (len(item.answer_ids) - item.end), 0, ""
    for count, piece in parts:
        if tokens >= max(1.0, wanted) and not (piece[:1].isalnum() and text[-1:].isalnum()):
            break
        tokens, text = tokens + count, text + piece
    given = " \n ".join([*(turn["content"] for turn in row.example.prompt), text])
    return Prompt(at, (*item.prompt_ids, *item.answer_ids[:tokens]), given, f"{share:.0%} of the answer given")


def neighbours(row: AuditRow, others: Sequence[Example], count: int) -> list[Example]:
    """The kept rows whose questions share most words with this one's, the nearest last."""
    function = function_words(language_of(row.example))
    own = _content(row.example.question or row.example.answer, function)
    scored = [
        (len(own & theirs) / max(1, len(own | theirs)), -at)
        for at, other in enumerate(others)
        for theirs in (_content(other.question, function),)
    ]
    best = sorted(range(len(others)), key=lambda at: scored[at], reverse=True)[:count]
    return [others[at] for at in reversed(best)]


def _content(text: str, function: frozenset[str]) -> frozenset[str]:
    return frozenset(word for word in words(text) if word not in function)
