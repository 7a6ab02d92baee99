"""A few rows of a set, spread evenly."""

import math
from collections.abc import Sequence
from typing import TypeVar

Row = TypeVar("Row")


def sample(rows: Sequence[Row], most: int) -> list[Row]:
    """At most ``most`` rows, spread evenly over the set: the same ones every time, from every part of it."""
    if len(rows) <= most:
        return list(rows)
    return [rows[math.floor(i * len(rows) / most)] for i in range(most)]
