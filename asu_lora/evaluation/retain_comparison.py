"""The model against one that never saw the forget set: forget quality, PrivLeak and the losses of reference."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from asu_lora.data.examples import Example
from asu_lora.errors import DataError
from asu_lora.evaluation.intervals import interval
from asu_lora.evaluation.membership import HOLDOUT, MIN_K
from asu_lora.evaluation.metrics.auc import auc
from asu_lora.evaluation.metrics.forget_quality import forget_quality
from asu_lora.evaluation.metrics.privacy_leakage import privacy_leakage
from asu_lora.evaluation.metrics.reference_loss import reference_loss
from asu_lora.evaluation.question_sets import FORGET, QuestionSet
from asu_lora.evaluation.record import Record
from asu_lora.evaluation.result import Evaluation
from asu_lora.evaluation.score import Score, one_value
from asu_lora.evaluation.set_means import all_values

WAY_OUT = "evaluate both on the same --data, --split, --task and --questions (or --forget and --holdout)"


def rows_of(rows: Iterable[Record], name: str) -> list[Record]:
    """The records of one set."""
    return [row for row in rows if row["set"] == name]


def check_questions(log: Sequence[Record], sets: Sequence[QuestionSet], holdout: Sequence[Example] = ()) -> None:
    """Refuse a log of other questions before anything is computed.

    Own records are compared by questions and answers, other programs' by their number and, where they tell them, by
    the answers.

    Raises:
        DataError: its questions are others than those of the forget set, or of the held-out examples.
    """
    forget = [example for questions in sets if questions.name == FORGET for example in questions.examples]
    _check_rows(rows_of(log, FORGET), forget, "forget set")
    if holdout:
        _check_rows(rows_of(log, HOLDOUT), holdout, "held-out examples")


def _check_rows(rows: Sequence[Record], examples: Sequence[Example], what: str) -> None:
    if not rows:
        return
    if all("question" in row for row in rows):
        whole = all("truth" in row for row in rows)
        asked = Counter((example.question, example.answer if whole else "") for example in examples)
        answered = Counter((row["question"], row["truth"] if whole else "") for row in rows)
        if asked != answered:
            raise DataError(
                f"The retain-only model's log is of other questions ({(answered - asked).total()} of its "
                f"{answered.total()} are not among the {asked.total()} of the {what}): {WAY_OUT}."
            )
        return
    told = [_letters(row["answer_told"]) for row in rows if "answer_told" in row]
    other = sum(not text.endswith(_letters(example.answer)) for text, example in zip(told, examples, strict=False))
    if len(rows) != len(examples) or other:
        raise DataError(
            f"The retain-only model's log has {len(rows)} rows, {other} of them with other answers, and the {what} "
            f"{len(examples)}: {WAY_OUT}."
        )


def compare_with_log(result: Evaluation, log: Sequence[Record], holdout: bool) -> None:
    """Add forget quality and, with held-out records, PrivLeak and every row's loss beside the log's.

    Args:
        result: with the records of the forget set and, where there is one, of the held-out set.
        holdout: whether there is one.
    """
    result.more["forget quality"] = retain_quality(result.records, log)
    if not holdout:
        return
    add_references(result.records, log)
    pairs = [[rows_of(rows, name) for name in (FORGET, HOLDOUT)] for rows in (result.records, log)]
    result.more["PrivLeak"], note = leakage(*pairs)
    if note:
        result.notes.append(note)


def retain_quality(records: Sequence[Record], log: Sequence[Record]) -> Score:
    """TOFU's forget quality against a log; missing where either side has no truth ratios.

    Raises:
        DataError: the two are of different numbers of questions.
    """
    ours, theirs = ([row.get("truth_ratio") for row in rows_of(rows, FORGET)] for rows in (records, log))
    first, second = ([value for value in values if value is not None] for values in (ours, theirs))
    if not first or len(first) < len(ours) or not second or len(second) < len(theirs):
        return one_value(None, "truth ratios of both models")
    if len(first) != len(second):
        raise DataError(
            f"The retain-only model's log has {len(second)} truth ratios, this evaluation {len(first)}: {WAY_OUT}."
        )
    ours_of = np.array(first)
    theirs_of = np.array([r["truth_ratio"] for r in _in_order(rows_of(log, FORGET), rows_of(records, FORGET))])
    bounds = interval(lambda rows: forget_quality(ours_of[rows].tolist(), theirs_of[rows].tolist()), len(first))
    return one_value(forget_quality(first, second), interval=bounds)


def add_references(records: Sequence[Record], log: Sequence[Record]) -> None:
    """Add ``reference_loss`` to the rows of both sets whose loss the log has too."""
    for name in (FORGET, HOLDOUT):
        ours, theirs = rows_of(records, name), rows_of(log, name)
        if len(ours) == len(theirs) and all(isinstance(row.get("loss"), float) for row in (*ours, *theirs)):
            for row, reference in zip(ours, _in_order(theirs, ours), strict=True):
                row["reference_loss"] = reference_loss(row["loss"], reference["loss"])


def _in_order(theirs: Sequence[Record], ours: Sequence[Record]) -> Sequence[Record]:
    """The log's rows in the order of ours: by question and answer where both tell them, else as they stand."""
    if not all("question" in row and "truth" in row for row in (*theirs, *ours)):
        return theirs
    left = defaultdict[tuple[str, str], list[Record]](list)
    for row in reversed(theirs):
        left[row["question"], row["truth"]].append(row)
    asked = [(row["question"], row["truth"]) for row in ours]
    if Counter(asked) != {text: len(rows) for text, rows in left.items()}:
        return theirs
    return [left[text].pop() for text in asked]


Sides = Sequence[Sequence[Record]]  # the forget rows and the held-out rows of one model


def leakage(ours: Sides, theirs: Sides) -> tuple[Score, str | None]:
    """PrivLeak of Min-40 %, and one sentence where it can't be had.

    Args:
        ours, theirs: the rows of the unlearned and of the retain-only model.
    """
    found = [all_values(rows, "min_k") for rows in (*ours, *theirs)]
    values = [part for part in found if part is not None]
    if len(values) < 4:
        return one_value(None, "a retain-only model's records of both sets"), (
            "PrivLeak compares with a model that never saw the forget set: evaluate that one with the same "
            "--holdout and --records FILE, and give --retain-log FILE here."
        )
    if auc(values[2], values[3]) == 1:
        return one_value(None, "a retain-only model that isn't told apart"), (
            f"PrivLeak would divide by 0: the retain-only model's {MIN_K} AUC is 1, so its held-out examples aren't "
            "like those to forget."
        )
    bounds = None
    if list(map(len, ours)) == list(map(len, theirs)):
        ordered = [_in_order(log, rows) for log, rows in zip(theirs, ours, strict=True)]
        columns = [np.array([row["min_k"] for row in rows]) for rows in (*ours, *ordered)]

        def of_rows(*drawn: np.ndarray) -> float:
            """The same texts are drawn for both models."""
            return _privleak([column[rows].tolist() for column, rows in zip(columns, drawn * 2, strict=True)])

        bounds = interval(of_rows, *map(len, ours))
    return one_value(_privleak(values), interval=bounds), None


def _privleak(values: Sequence[Sequence[float]]) -> float:
    """Of Min-K scores: forget and held-out, of the unlearned and of the retrained model; NaN where it divides by 0."""
    unlearned, retrained = auc(values[0], values[1]), auc(values[2], values[3])
    return privacy_leakage(unlearned, retrained) if retrained < 1 else float("nan")


def _letters(text: str) -> str:
    """Letters and digits alone: other programs decode tokens, which moves spaces and punctuation."""
    return "".join(letter for letter in text.casefold() if letter.isalnum())
