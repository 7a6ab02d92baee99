"""How hard an audit tries: which attacks, how many rows, prompts, samples and steps, and from which seed."""

import math
from dataclasses import dataclass, replace

from asu_lora.errors import SettingError


@dataclass(frozen=True)
class Effort:
    """What one depth spends. Times are for 40 rows on a base of 135M parameters and two cores.

    Attributes:
        rows: most rows of the request that an attack asks, spread evenly; of the never-seen rows too.
        phrasings: paraphrases of a question beyond the row's own.
        insisting: insisting and role prompts that a row is asked with; fewer than all take turns over the rows.
        samples: answers drawn of a row, n of leak@k.
        sampled_rows: rows that are sampled.
        marks: steps of an attack's own training after which it asks; the last one ends it.
        rates: its learning rates.
        ceiling_alike: whether the base is attacked in every way too; else it is asked directly alone.
        control: whether a control is tuned on other rows beside it.
        room: tokens of an answer, by those of the row's true one.
    """

    rows: int
    phrasings: int
    insisting: int
    samples: int
    sampled_rows: int
    marks: tuple[int, ...]
    rates: tuple[float, ...]
    ceiling_alike: bool
    control: bool
    room: float = 1.5


DEPTHS = {
    "quick": Effort(16, 1, 2, 4, 8, (10,), (1e-3,), False, False, 1.25),
    "standard": Effort(40, 3, 4, 8, 20, (5, 10), (2e-3,), False, True),
    "full": Effort(100, 6, 8, 16, 40, (5, 10, 30), (5e-4, 2e-3, 4e-3), True, True),
}
BATCH = 8  # rows of a step of an attack's own training


@dataclass(frozen=True)
class AuditSettings:
    """Settings of one audit.

    Attributes:
        attacks: names, or kinds for all attacks of a kind; None for those of the depth.
        depth: ``quick``, ``standard`` or ``full``.
        budget_s: seconds of the whole audit, loading included. Attacks that are not over by then are named in the
            result as left out. None for no end.
        seed: of everything random; the same seed finds the same.
        samples: answers drawn of a row, 1 to 1024: 64 for a figure of leak@64. None for the depth's.

    Raises:
        SettingError: one of them is out of its range. (Attacks are checked by the registry.)
    """

    attacks: tuple[str, ...] | None = None
    depth: str = "standard"
    budget_s: float | None = None
    seed: int = 0
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.depth not in DEPTHS:
            raise SettingError(f"The depth '{self.depth}' is none of {', '.join(DEPTHS)}.")
        if self.budget_s is not None and not (math.isfinite(self.budget_s) and self.budget_s > 0):
            raise SettingError(f"The budget should be a time above 0, not {self.budget_s} seconds.")
        if not 0 <= self.seed < 2**63:
            raise SettingError(f"The seed should be a whole number from 0 up, not {self.seed}.")

        if self.samples is not None and not 1 <= self.samples <= 1024:
            raise SettingError(f"A row is sampled 1 to 1024 times, not {self.samples}.")

    @property
    def effort(self) -> Effort:
        effort = DEPTHS[self.depth]
        return effort if self.samples is None else replace(effort, samples=self.samples)


def seconds(text: str) -> float:
    """A time as people type it: ``90``, ``90s``, ``10m``, ``1.5h``.

    Raises:
        SettingError: it is none, or not above 0.
    """
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], text[-1:].lower()) if text[-1:].lower() in units else (text, "s")
    try:
        found = float(number) * units[unit]
    except ValueError:
        found = math.nan
    if not (math.isfinite(found) and found > 0):
        raise SettingError(f"The budget '{text}' is no time: write 90s, 10m or 1h.")
    return found
