"""The question sets of an evaluation: what MU and FE are made of, and a user's own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from asu_lora.data.examples import Example
from asu_lora.data.reference_answers import ASKED_AGAIN, check_reference_answers, reference_answers
from asu_lora.data.request import read_selected
from asu_lora.data.sampling import sample
from asu_lora.errors import DataError

FORGET, RETAIN, AUTHORS, WORLD = "forget", "retain", "real_authors", "world_facts"
PARAPHRASED_FORGET = "forget_paraphrased"  # the forget set's questions in other words


def is_forget(name: str) -> bool:
    """Whether a set's questions are to be forgotten."""
    return name in (FORGET, PARAPHRASED_FORGET)


@dataclass(frozen=True)
class QuestionSet:
    """Questions that are scored together.

    Attributes:
        name: ``forget``, ``retain``, ``real_authors`` or ``world_facts`` (the four that MU and FE are made of), or
            ``forget_paraphrased``.
        examples: the questions; ``paraphrased_answer``, ``perturbed_answer`` and ``original_answer`` in their
            extra fields where there are any.
        multiple_choice: whether probability is that of the true answer among the wrong ones.

    Raises:
        DataError: paraphrased, perturbed or original answers that are no texts.
    """

    name: str
    examples: tuple[Example, ...]
    multiple_choice: bool = False

    def __post_init__(self) -> None:
        check_reference_answers(self.examples)


def own_sets(
    forget: str | Path | None, retain: str | Path | None, most: int, where: dict | None = None
) -> list[QuestionSet]:
    """A user's own files: at most ``most`` questions of each."""
    sets = []
    for name, source in ((FORGET, forget), (RETAIN, retain)):
        if source is not None:
            examples = read_selected(source, where if name == FORGET else None)
            sets.append(QuestionSet(name, tuple(sample(examples, most))))
    if not sets:
        raise DataError("Nothing to evaluate on: name a --forget or --retain file, or --suite tofu with --data.")
    return sets


def paraphrased(questions: QuestionSet) -> QuestionSet | None:
    """The same set asked in other words (``paraphrased_question``); None where no row has them.

    Only the last user turn is replaced. A row with several paraphrases is asked by the first of them.
    """
    again = []
    for example in questions.examples:
        texts = [] if example.is_passage else reference_answers(example, ASKED_AGAIN)
        if texts:
            again.append(replace(example, prompt=example.asked(texts[0])))
    return QuestionSet(PARAPHRASED_FORGET, tuple(again), questions.multiple_choice) if again else None


def with_paraphrases(sets: Sequence[QuestionSet]) -> list[QuestionSet]:
    """The sets, and behind them the forget set's questions in other words, where its rows have them."""
    again = [paraphrased(questions) for questions in sets if questions.name == FORGET]
    return [*sets, *(questions for questions in again if questions is not None)]
