"""A few rows of a set, spread evenly."""

import math
from collections.abc import Sequence

from asu_lora.data.examples import Example


def sample(examples: Sequence[Example], most: int) -> list[Example]:
    """At most ``most`` examples, spread evenly over the set: the same ones every time, from every part of it."""
    if len(examples) <= most:
        return list(examples)
    return [examples[math.floor(i * len(examples) / most)] for i in range(most)]
