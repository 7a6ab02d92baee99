"""A few rows of a set, spread evenly."""

import math
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def sample(examples: Sequence[T], most: int) -> list[T]:
    """At most ``most`` examples, spread evenly over the set: the same ones every time, from every part of it."""
    if len(examples) <= most:
        return list(examples)
    return [examples[math.floor(i * len(examples) / most)] for i in range(most)]
