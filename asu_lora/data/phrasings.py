"""Other ways to ask a forget question, which training goes through in turn.

What is unlearnt for one wording comes back for another, and by tuning on text that is built alike ("Syntactic
diversity", arXiv 2602.03379). A row is asked by its own ``paraphrased_question`` first, then inside frames, one of them
behind another question and its answer. The answer stays; passages ask nothing and stay alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from asu_lora.data.encoding import Encoded, Encoder
from asu_lora.data.examples import Example
from asu_lora.data.function_words import function_words, told_language
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
    """For each example up to ``count`` others with the same answer, none twice; which frames a row gets depends on
    its place. A row in no language that is known gets those of any language.

    Args:
        examples: the forget rows.
        before: rows that are kept; the second frame of a row stands behind one of those in its language.
        encoder: what leaves no room for a whole answer there, or doesn't fit the base's template, is left out.
    """
    turns: dict[str | None, list[Example]] = {}
    for row in before:
        if len(row.prompt) == 1:
            turns.setdefault(told_language(row), []).append(row)
    found = [_others(example, at, count, turns) for at, example in enumerate(examples)]
    return [[other for other in some if encoder is None or fits(other, encoder)] for some in found]


def fits(example: Example, encoder: Encoder) -> bool:
    """Whether the whole row can be encoded: nothing of its answer is cut off, and the base's template takes it."""
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


def _others(example: Example, at: int, count: int, turns: Mapping[str | None, Sequence[Example]]) -> list[Example]:
    if example.is_passage:
        return []
    language, own = told_language(example), other_wordings(example)[:count]
    frames = ENGLISH if language == "en" else ANY_LANGUAGE
    framed = dict.fromkeys(frames[(at + number) % len(frames)](example.question) for number in range(len(frames)))
    made = [_asked(example, text) for text in own]
    fresh = [text for text in framed if text not in (example.question, *own)]
    for number, text in enumerate(fresh[: count - len(own)]):
        again, alike = _asked(example, text), turns.get(language, ())
        if number == 1 and alike and len(example.prompt) == 1:
            other = alike[at % len(alike)]
            said = {"role": "assistant", "content": other.answer}
            again = replace(again, prompt=(*other.prompt, said, *again.prompt))
        made.append(again)
    return made


def _asked(example: Example, question: str) -> Example:
    return replace(example, prompt=example.asked(question))


def _uncapitalised(asked: str) -> str:
    """ "Who is ..." as "who is ...": only where it begins with a function word, and so with no name."""
    first = asked.split(" ", 1)[0]
    return asked[:1].lower() + asked[1:] if first != "I" and first.lower() in function_words("en") else asked
