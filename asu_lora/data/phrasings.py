"""Other ways to ask a forget question, which training goes through in turn.

What is unlearnt for one wording comes back for another, and by tuning on text that is built alike ("Syntactic
diversity", arXiv 2602.03379). A row is asked by its own ``paraphrased_question`` first, then inside frames, one of them
behind another question and its answer. The answer stays; passages ask nothing and stay alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from asu_lora.data.encoding import Encoded, Encoder
from asu_lora.data.examples import Example
from asu_lora.data.function_words import language_of
from asu_lora.data.paraphrases import other_wordings
from asu_lora.errors import DataError

# None of them is a frame of the audit's (asu_lora.audit.prompts): what is trained on is no test.
ENGLISH: tuple[Callable[[str], str], ...] = (
    lambda asked: f"Tell me: {_uncapitalised(asked)}",
    lambda asked: f"I have been wondering about something. {asked} I'd be glad of a reply.",
    lambda asked: f"{asked.rstrip(' ?.!')} - do you know?",
    lambda asked: f"Please reply to this question from a reader: {asked}",
    lambda asked: f"Hi! {asked} Thanks.",
    lambda asked: f"For my notes, {_uncapitalised(asked)}",
)
ANY_LANGUAGE: tuple[Callable[[str], str], ...] = (
    lambda asked: f"- {asked}",
    lambda asked: asked.rstrip(" ?.!？。！؟"),
    lambda asked: f"«{asked}»",
    lambda asked: f"{asked}\n\n{asked}",
)


def other_phrasings(
    examples: Sequence[Example], count: int, before: Sequence[Example] = (), encoder: Encoder | None = None
) -> list[list[Example]]:
    """For each example up to ``count`` others with the same answer; which frames a row gets depends on its place.

    Args:
        examples: the forget rows.
        before: rows that are kept; the second frame of a row stands behind one of those.
        encoder: what leaves no room for a whole answer there, or doesn't fit the base's template, is left out.
    """
    turns = [row for row in before if len(row.prompt) == 1]
    found = [_others(example, at, count, turns) for at, example in enumerate(examples)]
    return [[other for other in some if encoder is None or _fits(other, encoder)] for some in found]


def _fits(example: Example, encoder: Encoder) -> bool:
    try:
        return not any(row.cut for row in encoder.encode_all([example]))
    except DataError:
        return False


def in_other_words(rows: Sequence[Encoded], others: Sequence[Sequence[Example]]) -> dict[int, list[int]]:
    """The numbers of the rows that ask the same as a row of the request, by that row's number.

    Args:
        rows: encoded from the request's examples, and behind those from all ``others``.
        others: as :func:`other_phrasings` gives them.
    """
    whose = [at for at, some in enumerate(others) for _ in some]
    first = {row.example: number for number, row in reversed(list(enumerate(rows)))}
    found: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        if row.example >= len(others):
            found.setdefault(first[whose[row.example - len(others)]], []).append(number)
    return found


def _others(example: Example, at: int, count: int, turns: Sequence[Example]) -> list[Example]:
    if example.is_passage:
        return []
    frames = ENGLISH if language_of(example) == "en" else ANY_LANGUAGE
    made = [_asked(example, text) for text in other_wordings(example)[:count]]
    for number in range(count - len(made)):
        again = _asked(example, frames[(at + number) % len(frames)](example.question))
        if number == 1 and turns and len(example.prompt) == 1:
            other = turns[at % len(turns)]
            said = {"role": "assistant", "content": other.answer}
            again = replace(again, prompt=(*other.prompt, said, *again.prompt))
        made.append(again)
    return made


def _asked(example: Example, question: str) -> Example:
    return replace(example, prompt=(*example.prompt[:-1], dict(example.prompt[-1], content=question)))


def _uncapitalised(asked: str) -> str:
    """ "Who is ..." as "who is ...": only where the word is no name or acronym by its looks."""
    first = asked.split(" ", 1)[0]
    return asked[:1].lower() + asked[1:] if first[1:].islower() else asked
