"""How near retain rows are to a request, and whether they are near and many enough to protect what is beside it.

Cosines of hidden states mean nothing by themselves: those of one base are all high, those of another low. So the
built-in general questions are the yardstick: a row is near if it is nearer to some row of the request than 95 % of
them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from asu_lora.data.examples import Example
from asu_lora.data.request import general_retain
from asu_lora.data.sampling import sample
from asu_lora.models.loading import LoadedBase
from asu_lora.retain.row_vectors import row_vectors

BEYOND = 0.95  # share of the general questions that a near row is nearer than
FEW = 15  # near rows below which neighbours are poorly protected
LOOKED_AT = 256  # rows of the request, and of a given retain set, spread evenly


@dataclass(frozen=True)
class Nearness:
    """What was measured on retain rows.

    Attributes:
        rows: of the retain set.
        near: how many of them are near; estimated where only some were looked at.
        mean: mean cosine to the nearest row of the request.
        yardstick: the cosine that makes a row near.
    """

    rows: int
    near: int
    mean: float
    yardstick: float

    def note(self) -> str | None:
        """One sentence where near rows are too few; None where there are enough."""
        if self.near >= FEW:
            return None
        told = "no retain row is" if not self.near else f"{self.near} of {self.rows} retain rows are"
        return (
            f"{told} near to the request, nearer than {BEYOND:.0%} of general questions, and at least {FEW} should be: "
            "add rows about similar people, places or subjects, which may be lost otherwise."
        )


def centred(vectors: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Directions from a common centre, each of length 1: all states of a base share a large part that tells nothing."""
    return torch.nn.functional.normalize(vectors - centre, dim=-1)


def look_at(
    base: LoadedBase,
    forget: Sequence[Example],
    retain: Sequence[Example],
    vectors_of: Callable[[Sequence[Example]], torch.Tensor] | None = None,
) -> Nearness:
    """How near a given retain set is, by the base's hidden states.

    Args:
        vectors_of: gives the vectors of rows that are kept, where something knows them already.
    """
    vectors_of = vectors_of or partial(row_vectors, base)
    gone = row_vectors(base, sample(forget, LOOKED_AT))
    kept, known = vectors_of(sample(retain, LOOKED_AT)), vectors_of(general_retain(forget))
    cosines, yardstick = compared(gone, kept, known)
    return measured(cosines, yardstick, len(retain))


def compared(gone: torch.Tensor, kept: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Cosines of the rows that may be kept to those that must go, and the cosine that makes a row near.

    Args:
        gone, kept, known: vectors of the request's rows (F, H), those to keep (K, H), and the general questions (G, H).

    Returns:
        (K, F) cosines; the yardstick.
    """
    # the two sets weigh the same, however many rows each has
    centre = (kept.mean(0) + known.mean(0)) / 2
    away = centred(gone, centre)
    yardstick = (centred(known, centre) @ away.T).amax(1).quantile(BEYOND)
    return centred(kept, centre) @ away.T, float(yardstick)


def measured(cosines: torch.Tensor, yardstick: float, rows: int) -> Nearness:
    """What cosines (K, F) of retain rows say of the ``rows`` that these stand for."""
    nearest = cosines.amax(1)
    near = round(float((nearest > yardstick).float().mean()) * rows)
    return Nearness(rows, near, round(float(nearest.mean()), 4), round(yardstick, 4))
