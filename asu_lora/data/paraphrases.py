"""A user's own wordings of a request's questions, from a file: training goes through them, an audit asks them.

A row has ``question``, as it stands in the request, and ``paraphrased_question``, one text or a list.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from asu_lora.data.examples import Example
from asu_lora.data.reading import read_rows
from asu_lora.data.reference_answers import ASKED_AGAIN, reference_answers, texts_of
from asu_lora.errors import DataError

MOST = 7  # of a question, unless --phrasings says more: the 8 epochs of --adds-up meet it and each of these once


@dataclass(frozen=True)
class Paraphrases:
    """Other wordings of questions of a request.

    Attributes:
        ways: by the question they are of, each wording once.
        unmatched: questions of the file that no row of the request asks.
    """

    ways: Mapping[str, Sequence[str]] = field(repr=False)
    unmatched: int = 0

    @property
    def count(self) -> int:
        return sum(map(len, self.ways.values()))

    def fingerprint(self) -> str:
        """SHA-256 over questions and wordings."""
        return hashlib.sha256(json.dumps(sorted(self.ways.items())).encode()).hexdigest()

    def added_to(self, example: Example) -> Example:
        """The row with these among its other wordings, behind its own."""
        ways = () if example.is_passage else self.ways.get(example.question, ())
        if not ways:
            return example
        known = list(dict.fromkeys([*reference_answers(example, ASKED_AGAIN), *ways]))
        return replace(example, extra={**example.extra, ASKED_AGAIN: known})

    def heldout_note(self, heldout: Sequence[Example]) -> str | None:
        """Says how many held-out questions stand among the wordings; None where none does."""
        trained_on = {text for texts in self.ways.values() for text in texts}
        both = sum(example.question in trained_on for example in heldout)
        if not both:
            return None
        return (
            f"{both} of {len(heldout)} held-out questions stand in --paraphrases too: training may ask them, so their "
            "figures say nothing of words it never saw. Take them out of one file."
        )

    def note(self, most: int, trained_on: int) -> str | None:
        """What of the file is not trained on, in one or two sentences; None where all is.

        Args:
            most: wordings that a row has.
            trained_on: the most that training goes through.
        """
        said = [self.unmatched_note()]
        if most > trained_on:
            said.append(
                f"A question has up to {most} other wordings, of which the first {trained_on} are trained on: "
                f"--phrasings {most} takes all."
            )
        return " ".join(filter(None, said)) or None

    def unmatched_note(self) -> str | None:
        """Says how many questions of the file no row asks; None where there is none."""
        if not self.unmatched:
            return None
        questions = "1 question" if self.unmatched == 1 else f"{self.unmatched} questions"
        return (
            f"No row of the request asks {questions} of --paraphrases, left out: 'question' must stand there as in "
            "the request."
        )

    def unasked_note(self, asked: Iterable[Example]) -> str | None:
        """The same of the rows that an audit asks: what of the file it leaves out, and why.

        Args:
            asked: the rows that are attacked.
        """
        left_out = len(self.ways.keys() - {example.question for example in asked if not example.is_passage})
        said = [self.unmatched_note()]
        if left_out:
            questions = "1 question" if left_out == 1 else f"{left_out} questions"
            said.append(
                f"Wordings of {questions} of --paraphrases are not asked: their rows are not attacked, because they "
                "have no fact of their own or the depth asks fewer rows."
            )
        return " ".join(filter(None, said)) or None


def other_wordings(example: Example) -> list[str]:
    """The row's own other wordings, each once, those that only repeat its question left out."""
    return [text for text in dict.fromkeys(reference_answers(example, ASKED_AGAIN)) if text != example.question]


def all_wordings(example: Example) -> list[Example]:
    """The row, and behind it the row in each of its own other wordings.

    Wordings that can't be read are left out here, and refused where they are used.
    """
    if example.is_passage:
        return [example]
    try:
        return [example, *(replace(example, prompt=example.asked(text)) for text in other_wordings(example))]
    except DataError:
        return [example]


def read_paraphrases(path: str | Path, examples: Iterable[Example]) -> Paraphrases:
    """Read a file with ``question`` and ``paraphrased_question``.

    Args:
        path: whatever :func:`~asu_lora.data.reading.read_rows` reads.
        examples: the request's rows.

    Raises:
        DataError: a row lacks one of the two, or no question is of the request.
    """
    asked = {example.question for example in examples if not example.is_passage}
    ways: dict[str, dict[str, None]] = {}
    others = set()
    for number, row in enumerate(read_rows(path), start=1):
        question, texts = row.get("question"), texts_of(row, ASKED_AGAIN, f"{path}, row {number}")
        if not isinstance(question, str) or not texts:
            raise DataError(f"{path}, row {number}: a row needs 'question' and '{ASKED_AGAIN}'.")
        if question in asked:
            ways.setdefault(question, {}).update(dict.fromkeys(texts))
        else:
            others.add(question)
    if not ways:
        raise DataError(f"{path} has paraphrases of other questions only: 'question' must stand as in the request.")
    return Paraphrases({question: list(texts) for question, texts in ways.items()}, len(others))
