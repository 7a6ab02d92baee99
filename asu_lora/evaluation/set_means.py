"""A set's means over its records, metric by metric."""

from collections.abc import Callable, Sequence
from statistics import fmean

from asu_lora.evaluation.metrics.truth_ratio import truth_ratio_forget, truth_ratio_retain
from asu_lora.evaluation.question_sets import is_forget
from asu_lora.evaluation.record import Record

METRICS = (
    "rouge",
    "probability",
    "truth_ratio",
    "truth_share",
    "token_entropy",
    "cosine_similarity",
    "entailment",
    "exact_memorization",
    "extraction_strength",
    "min_k",
    "gibberish",
)


def row_values(records: Sequence[Record], metric: str) -> list[float] | None:
    """A metric of every row that can have it: passages have no answer to compare.

    None where there is no such row, or where one lacks its value.
    """
    values = [record[metric] for record in records if metric in record]
    return None if not values or None in values else values


def all_values(records: Sequence[Record], metric: str) -> list[float] | None:
    """A metric of every row; None where there is no row, or one without it."""
    values = row_values(records, metric)
    return values if values is not None and len(values) == len(records) else None


def aggregate(metric: str, name: str) -> Callable[[Sequence[float]], float]:
    """What makes a set's figure of its rows' values; the truth ratio has its own rule, which differs on the forget set.

    Args:
        name: the set's name.
    """
    if metric != "truth_ratio":
        return fmean
    return truth_ratio_forget if is_forget(name) else truth_ratio_retain


def means(records: Sequence[Record], name: str) -> dict[str, float | None]:
    """A set's figures; None where one can't be had."""
    found: dict[str, float | None] = {}
    for metric in METRICS:
        values = row_values(records, metric)
        found[metric] = None if values is None else aggregate(metric, name)(values)
    return found
