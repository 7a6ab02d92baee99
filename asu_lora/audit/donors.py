"""Kept rows whose facts stand in for those of the forgotten: what answers say of them is chance.

A row is only taken apart when it is asked for: an audit wants sixteen of two hundred.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from asu_lora.data.examples import Example

if TYPE_CHECKING:
    from asu_lora.audit.session import AuditRow


class Donors:
    """The rows that may stand in, in their own order.

    Args:
        row: takes a row apart, by its number; None for one without a fact of its own.
    """

    def __init__(self, examples: Sequence[Example], row: "Callable[[int, Example], AuditRow | None]"):
        self._examples, self._row = examples, row
        self._known: dict[int, AuditRow | None] = {}

    def __iter__(self) -> "Iterator[AuditRow]":
        return (row for at in range(len(self._examples)) if (row := self._at(at)) is not None)

    def spread(self, count: int) -> "list[AuditRow]":
        """So many rows, evenly spread, each the next that has a fact; one twice only where there are no others.

        None where no row has a fact.
        """
        most = len(self._examples)
        step = max(1, most // max(1, count))
        found: list[AuditRow] = []
        free = set(range(most))
        for start in (at * step % most for at in range(count if most else 0)):
            places = [(start + at) % most for at in range(most)]
            place = next((at for at in places if at in free and self._at(at) is not None), None)
            if place is None:  # all are taken: once more from the first
                free = set(range(most))
                place = next((at for at in places if self._at(at) is not None), None)
            if place is None or (row := self._at(place)) is None:
                return []
            free.discard(place)
            found.append(row)
        return found

    def _at(self, at: int) -> "AuditRow | None":
        if at not in self._known:
            self._known[at] = self._row(at, self._examples[at])
        return self._known[at]
