"""What a model that never saw the forget set scored: the yardstick of forget quality, PrivLeak and reference.

Three kinds of log are read: the records that ``asu-lora evaluate --records`` wrote, the JSON of TOFU's own
evaluation (``eval_log_aggregated.json``, or its ``eval_log_forget.json`` alone), and open-unlearning's
``TOFU_EVAL.json`` or ``MUSE_EVAL.json``.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from asu_lora.data.reading import read_rows
from asu_lora.errors import DataError
from asu_lora.evaluation.metrics.truth_ratio import LARGEST_EXPONENT
from asu_lora.evaluation.question_sets import FORGET
from asu_lora.evaluation.record import Record

HOLDOUT = "holdout"
TOFU_FILE = "eval_log_forget.json"
LOSSES = ("avg_paraphrased_loss", "average_perturb_loss")
RATIO, TRUE, FALSE = "forget_truth_ratio", "forget_Q_A_PARA_Prob", "forget_Q_A_PERT_Prob"  # open-unlearning's
ATTACKS = {"mia_min_k": ("min_k", -1.0), "mia_loss": ("loss", 1.0)}  # its name: ours, and the sign between them


def read_log(path: str | Path) -> list[Record]:
    """A retain-only model's log as records; other programs' hold no question, and only what is compared.

    Raises:
        DataError: it is none of the three kinds, or a broken one.
    """
    found = _json_object(Path(path))
    tofu = found.get(TOFU_FILE, found)
    if isinstance(tofu, dict) and all(name in tofu for name in LOSSES):
        return _tofu(tofu, path)
    if RATIO in found or any(name in found for name in ATTACKS):
        return _open_unlearning(found, path)
    rows = read_rows(path)
    if not all(isinstance(row.get("set"), str) for row in rows):
        raise DataError(
            f"{path} is no retain-only model's log: give the records that 'asu-lora evaluate --records' wrote for it, "
            f"TOFU's {TOFU_FILE} (or aggregated) with {' and '.join(LOSSES)}, or open-unlearning's TOFU_EVAL.json with "
            f"{RATIO} (its TOFU_SUMMARY.json holds no question's score)."
        )
    return rows


def _json_object(path: Path) -> dict[str, Any]:
    """The one object of a JSON file; empty for another file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _tofu(log: Mapping[str, Any], path: str | Path) -> list[Record]:
    # older versions of TOFU's code write lists, newer ones dicts by the question's number
    true, wrong, said = (
        list(value.values() if isinstance(value, dict) else value or ())
        for value in (*(log[name] for name in LOSSES), log.get("generated_text"))
    )
    try:
        ratios = [_ratio(fmean(map(float, several)) - float(one)) for one, several in zip(true, wrong, strict=True)]
    except (TypeError, ValueError, ArithmeticError) as error:
        raise DataError(
            f"{path} is a broken TOFU log: {' and '.join(LOSSES)} should hold one number and one list of "
            "numbers a question."
        ) from error
    records: list[Record] = [
        {"set": FORGET, "row": row, "truth_ratio": ratio} for row, ratio in enumerate(ratios, start=1)
    ]
    if len(said) == len(records) and all(isinstance(texts, list) and len(texts) == 3 for texts in said):
        for record, (_, _, truth) in zip(records, said, strict=True):  # question, answer, truth
            record["answer_told"] = truth
    return records


def _open_unlearning(log: Mapping[str, Any], path: str | Path) -> list[Record]:
    rows: dict[tuple[str, str], Record] = {}

    def put(name: str, index: str, **values: Any) -> None:
        row = int(index) + 1 if index.isdigit() else index
        rows.setdefault((name, index), {"set": name, "row": row}).update(values)

    try:
        for index, ratio in _open_unlearning_ratios(log):
            put(FORGET, index, truth_ratio=ratio)
        for theirs, (ours, sign) in ATTACKS.items():
            for name in (FORGET, HOLDOUT):
                for index, value in log.get(theirs, {}).get(name, {}).get("value_by_index", {}).items():
                    put(name, index, **{ours: sign * float(value["score"])})
        for index, value in log.get("forget_Q_A_ROUGE", {}).get("value_by_index", {}).items():
            if (FORGET, index) in rows and isinstance(value.get("ground_truth"), str):
                put(FORGET, index, answer_told=value["ground_truth"])
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise DataError(
            f"{path} is a broken log of open-unlearning: {RATIO} and {', '.join(ATTACKS)} should hold a score a "
            "question under 'value_by_index'."
        ) from error
    return list(rows.values())


def _open_unlearning_ratios(log: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """(number of the question, truth ratio with the truth above); open-unlearning has the truth below.

    From the losses where they are there: its own score adds 1e-10, and is another one with ``prob_mean``.
    """
    true, false = (log.get(name, {}).get("value_by_index", {}) for name in (TRUE, FALSE))
    if true and true.keys() == false.keys():
        for index, value in true.items():
            yield index, _ratio(_mean(false[index]["avg_loss"]) - _mean(value["avg_loss"]))
        return
    for index, value in log.get(RATIO, {}).get("value_by_index", {}).items():
        score = float(value["score"])
        yield index, _ratio(-math.log(score) if score > 0 else math.inf)


def _mean(value: Any) -> float:
    """One answer's loss, or the mean of several."""
    return fmean(map(float, value)) if isinstance(value, list) else float(value)


def _ratio(exponent: float) -> float:
    if math.isnan(exponent):
        raise ValueError("a loss is NaN")
    return math.exp(min(max(exponent, -LARGEST_EXPONENT), LARGEST_EXPONENT))
