"""The question sets of an evaluation: what MU and FE are made of, and a user's own."""

from dataclasses import dataclass
from pathlib import Path

from asu_lora.data.examples import Example, examples_from_rows
from asu_lora.data.reading import read_rows
from asu_lora.data.reference_answers import check_reference_answers
from asu_lora.data.request import select_rows
from asu_lora.data.sampling import sample
from asu_lora.errors import DataError

FORGET, RETAIN, AUTHORS, WORLD = "forget", "retain", "real_authors", "world_facts"


@dataclass(frozen=True)
class QuestionSet:
    """Questions that are scored together.

    Attributes:
        name: ``forget``, ``retain``, ``real_authors`` or ``world_facts`` (the four that MU and FE are made of).
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
            rows = read_rows(source)
            if where and name == FORGET:
                rows = select_rows(rows, where, str(source))
            sets.append(QuestionSet(name, tuple(sample(examples_from_rows(rows, str(source)), most))))
    if not sets:
        raise DataError("Nothing to evaluate on: name a --forget or --retain file, or --suite tofu with --data.")
    return sets
