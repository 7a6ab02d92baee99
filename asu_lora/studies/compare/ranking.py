"""Who is best: the Pareto front of MU and FE, and a ranking of the methods that still speak."""

from collections.abc import Sequence

from asu_lora.studies.compare.rows import Row
from asu_lora.studies.compare.speech import KEPT

SENTENCES = 0.95  # of the answers to kept questions, for a method to count in the second ranking


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """The trained rows that no other beats in one of MU and FE and equals or beats in the other."""
    scored = [
        (row, mu, fe)
        for row in rows
        if row.lr is not None and (mu := row.score("MU")) is not None and (fe := row.score("FE")) is not None
    ]
    return [row for row, mu, fe in scored if not any(m >= mu and f >= fe and (m > mu or f > fe) for _, m, f in scored)]


def by_average(rows: Sequence[Row]) -> list[Row]:
    """The trained rows with an Avg, the highest first."""
    scored = [(average, row) for row in rows if row.lr is not None and (average := row.score("Avg")) is not None]
    return [row for _, row in sorted(scored, key=lambda entry: -entry[0])]


def that_speak(rows: Sequence[Row]) -> list[Row]:
    """The same, but only those whose answers to kept questions are at least 95 % sentences."""
    return [
        row
        for row in by_average(rows)
        if (noise := row.spoken(KEPT, "gibberish")) is not None and 1 - noise >= SENTENCES
    ]
