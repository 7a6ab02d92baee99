"""The end of an audit's time: an attack that still works then is stopped where it next says how far it is."""

import time
from typing import Any

from asu_lora.progress import Progress, Relay


class OutOfTime(Exception):
    """Stops the attack that is being made; the audit goes on to its end."""


class Deadline(Relay):
    """A progress that ends what reports to it.

    Args:
        progress: which hears everything.
        budget_s: from now on, in seconds; None for no end.
    """

    def __init__(self, progress: Progress, budget_s: float | None = None):
        super().__init__(progress)
        self.ends = None if budget_s is None else time.monotonic() + budget_s

    @property
    def passed(self) -> bool:
        return self.ends is not None and time.monotonic() > self.ends

    def _check(self) -> None:
        if self.passed:
            raise OutOfTime

    def stage(self, name: str, total: int | None = None) -> None:
        self._check()
        super().stage(name, total)

    def advance(self, amount: int = 1, **values: Any) -> None:
        self._check()
        super().advance(amount, **values)

    def close(self) -> None:
        self.progress.close()
