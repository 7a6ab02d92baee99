"""What a model that never saw the forget set scored: the yardstick of forget quality and of PrivLeak.

Two kinds of log are read: the records that ``asu-lora evaluate --records`` wrote, and the JSON that TOFU's own
evaluation writes (``eval_log_aggregated.json``, or its ``eval_log_forget.json`` alone).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asu_lora.data.reading import read_rows
from asu_lora.errors import DataError
from asu_lora.evaluation.metrics.forget_quality import forget_quality
from asu_lora.evaluation.question_sets import FORGET, QuestionSet
from asu_lora.evaluation.score import Score

TOFU_FILE = "eval_log_forget.json"
LOSSES = ("avg_paraphrased_loss", "average_perturb_loss")


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """A retain-only model's log as records; TOFU's give ``set`` and ``truth_ratio`` alone.

    Raises:
        DataError: it is neither of the two kinds.
    """
    losses = _tofu_losses(Path(path))
    if losses is not None:
        return [{"set": FORGET, "truth_ratio": math.exp(sum(wrong) / len(wrong) - true)} for true, wrong in losses]
    rows = read_rows(path)
    if not all(isinstance(row.get("set"), str) for row in rows):
        raise DataError(
            f"{path} is no retain-only model's log: give the records that 'asu-lora evaluate --records' "
            f"wrote for it, or TOFU's {TOFU_FILE} (or aggregated) with {' and '.join(LOSSES)}."
        )
    return rows


def _tofu_losses(path: Path) -> list[tuple[float, list[float]]] | None:
    """(paraphrased loss, perturbed losses) a question of TOFU's own log; None for another file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = found.get(TOFU_FILE, found) if isinstance(found, dict) else None
    if not isinstance(found, dict) or not all(name in found for name in LOSSES):
        return None
    # older versions of TOFU's code write lists, newer ones dicts by the question's number
    true, wrong = (value.values() if isinstance(value, dict) else value for value in (found[name] for name in LOSSES))
    try:
        return [(float(one), [float(loss) for loss in several]) for one, several in zip(true, wrong, strict=True)]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path} is a broken TOFU log: {' and '.join(LOSSES)} should hold one number and one list of "
            "numbers a question."
        ) from error


def log_min_k(log: Sequence[dict[str, Any]], name: str, count: int) -> list[float]:
    """The Min-K% scores of one set of a log.

    Raises:
        DataError: the log is of other data.
    """
    values = [row["min_k"] for row in log if row["set"] == name and isinstance(row.get("min_k"), float)]
    if len(values) != count:
        raise DataError(
            f"The retain-only model's log has {len(values)} rows of {name} with min_k, this evaluation has "
            f"{count}: evaluate both on the same data."
        )
    return values


def check_questions(log: Sequence[dict[str, Any]], sets: Sequence[QuestionSet]) -> None:
    """Refuse a log of other questions before anything is computed; TOFU's own logs don't say theirs.

    Raises:
        DataError: its questions are others than those of the forget set.
    """
    asked = {example.question for questions in sets if questions.name == FORGET for example in questions.examples}
    answered = {row["question"] for row in log if row["set"] == FORGET and "question" in row}
    if answered and asked != answered:
        raise DataError(
            f"The retain-only model's log is of other questions ({len(answered - asked)} of its "
            f"{len(answered)} are not among the {len(asked)} of the forget set): evaluate both on the "
            "same --data, --split, --task and --questions."
        )


def retain_quality(records: Sequence[dict[str, Any]], log: Sequence[dict[str, Any]]) -> Score:
    """TOFU's forget quality against a log; missing where either side has no truth ratios."""
    ratios = [[row.get("truth_ratio") for row in rows if row["set"] == FORGET] for rows in (records, log)]
    if not all(values and None not in values for values in ratios):
        return Score(None, 0, 1, ("truth ratios of both models",), "values")
    return Score(forget_quality(*ratios), 1, 1, (), "values")
