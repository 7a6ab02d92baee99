"""Whether a model still speaks: gibberish and repetition, on kept and on forgotten questions apart."""

from collections.abc import Iterable
from statistics import fmean

from asu_lora.evaluation.metrics.gibberish import repetition
from asu_lora.evaluation.question_sets import is_forget
from asu_lora.evaluation.record import Record

KEPT, FORGOTTEN = "kept", "forgotten"


def speech(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """Of ``kept`` and ``forgotten`` questions, the share of gibberish and the mean repetition (shares of trigrams).

    Passages were asked nothing and don't count; a kind without a question is left out.
    """
    asked: dict[str, list[Record]] = {KEPT: [], FORGOTTEN: []}
    for record in records:
        if "answer" in record:
            asked[FORGOTTEN if is_forget(record["set"]) else KEPT].append(record)
    return {
        kind: {
            "gibberish": fmean(record["gibberish"] for record in rows),
            "repetition": fmean(repetition(record["answer"]) for record in rows),
        }
        for kind, rows in asked.items()
        if rows
    }
