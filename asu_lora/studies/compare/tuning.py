"""What a search is made on, and what its records say: rows that the comparison doesn't score, and every trial."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from asu_lora.data.request import ForgetRequest
from asu_lora.errors import SettingError
from asu_lora.evaluation.question_sets import QuestionSet
from asu_lora.studies.compare.questions import comparison_sets


@dataclass(frozen=True)
class Tuning:
    """How methods are tuned before they are compared.

    Attributes:
        trials: of each method.
        request: what the trials forget and keep.
        sets: what they are scored on.
    """

    trials: int
    request: ForgetRequest
    sets: Sequence[QuestionSet]

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise SettingError(f"A search of {self.trials} trials finds nothing: give at least 1.")


@dataclass
class Trial:
    """One trial as the records have it; it holds no text of the request.

    Attributes:
        state: ``complete``, ``pruned`` (given up early) or ``running`` (by another process).
        settings: what was tried.
        early, score: Avg after a quarter, and in the end; None where it wasn't come to, 0 for a run that failed.
    """

    method: str
    number: int
    state: str
    settings: dict[str, Any]
    early: float | None
    score: float | None
    seconds: float
    failure: str | None


def tuning(
    trials: int,
    request: ForgetRequest,
    scored: Sequence[QuestionSet],
    rows: ForgetRequest,
    most: int,
    own_retain: bool = False,
) -> Tuning:
    """The trials' request and questions, none of which the comparison scores.

    Args:
        request, scored: what is compared.
        rows: the trials' own forget rows, and their retain rows if ``own_retain``; else those retain rows of the
            request that are not scored.
        most: questions a set.

    Raises:
        SettingError: a row that is scored, or no retain row that isn't.
    """
    asked = {example.key() for questions in scored for example in questions.examples}
    asked |= {example.key() for example in request.forget}
    if same := sum(example.key() in asked for example in rows.forget):
        raise SettingError(
            f"{same} of the {len(rows.forget)} rows of --search-forget are rows that the comparison scores: tune on "
            "others, such as another task's."
        )
    used = asked | {example.key() for example in rows.forget}
    retain = [e for e in (rows.retain if own_retain else request.retain) if e.key() not in used]
    if not retain:
        raise SettingError(
            "The search has no retain rows of its own, as all are scored: give --search-retain, or fewer --questions."
        )
    apart = replace(rows, retain=tuple(retain), retain_source=request.retain_source if not own_retain else "file")
    sets, _ = comparison_sets(apart, (), most)
    return Tuning(trials, apart, sets)
