"""What the runs of a comparison are scored on: the request itself, or a benchmark's sets."""

from collections.abc import Sequence

from asu_lora.data.reference_answers import PERTURBED, reference_answers
from asu_lora.data.request import ForgetRequest
from asu_lora.data.sampling import sample
from asu_lora.errors import DataError
from asu_lora.evaluation.question_sets import FORGET, RETAIN, QuestionSet


def comparison_sets(
    request: ForgetRequest, suite: Sequence[QuestionSet] = (), most: int = 300
) -> tuple[list[QuestionSet], list[str]]:
    """The question sets of a comparison, at most ``most`` questions each, and notes on where they are from.

    The retain set is made of those retain rows of the request that carry perturbed answers, where there are any:
    what was trained to be kept is known to the base, a benchmark's own retain set may not be. Else it is the
    suite's, or all retain rows.

    Raises:
        DataError: nothing to ask, or the suite's forget set asks nothing that the request forgets.
    """
    sets = {questions.name: questions for questions in suite}
    forget = [example for example in request.forget if not example.is_passage]
    retain = [example for example in request.retain if not example.is_passage]
    if FORGET not in sets:
        sets = {FORGET: QuestionSet(FORGET, tuple(sample(forget, most)))} | sets
    elif not {e.question for e in sets[FORGET].examples} & {e.question for e in forget}:
        raise DataError(
            "The suite's forget set asks none of the request's questions: give --split and --task of the "
            "rows that are to be forgotten."
        )
    own = {e.question for e in forget}
    others = sum(e.question not in own for e in sets[FORGET].examples)
    notes = []
    if others:
        notes.append(
            f"{others} of the {len(sets[FORGET].examples)} questions of the suite's forget set are none that the "
            "request forgets, and FE counts them all: give --split and --task of the request's rows."
        )
    rich = [example for example in retain if reference_answers(example, PERTURBED)]
    if rich or RETAIN not in sets:
        chosen = sample(rich or retain, most)
        sets[RETAIN] = QuestionSet(RETAIN, tuple(chosen))
        notes.append(
            f"The retain set: {len(chosen)} of the request's {len(request.retain)} retain rows"
            + (f", out of the {len(rich)} with perturbed answers." if rich else ".")
        )
    for name in (FORGET, RETAIN):
        if not sets[name].examples:
            raise DataError(f"The {name} set has no questions to score: passages of plain text can't be asked.")
    return list(sets.values()), notes
