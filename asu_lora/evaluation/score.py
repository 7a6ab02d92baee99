"""A summary score that knows how much of itself could be computed."""

from dataclasses import dataclass

from asu_lora.errors import DataError


@dataclass(frozen=True)
class Score:
    """A summary over several values, some of which may be missing.

    Attributes:
        value: the score over the values that are there, None where none is.
        used: how many metrics (or values, see ``unit``) went into it.
        of: how many belong into it.
        missing: what is missing, by name.
        unit: what ``used`` and ``of`` count: "metrics", or "values" where a metric lacks in some sets only.
    """

    value: float | None
    used: int
    of: int
    missing: tuple[str, ...] = ()
    unit: str = "metrics"

    def __post_init__(self):
        if not 0 <= self.used <= self.of or self.of == 0:
            raise DataError(f"A score can't use {self.used} of {self.of} {self.unit}.")
        if (self.used < self.of) != bool(self.missing) or (self.used == 0) != (self.value is None):
            raise DataError(f"A score of {self.used} of {self.of} {self.unit} must name what it lacks.")

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    def label(self, name: str) -> str:
        """``"MU"`` for a full score, ``"MU (5 of 6 metrics)"`` for a partial one."""
        return name if self.complete else f"{name} ({self.used} of {self.of} {self.unit})"
