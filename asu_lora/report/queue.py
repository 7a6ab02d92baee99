"""The requests of a store as the page shows them, read from its ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from asu_lora.adapters.store import AdapterStore


class Ticket(Protocol):
    """A request as the ledger holds it."""

    id: str
    state: str
    due: str
    sentence: str | None

    def overdue(self, now: str | None = None) -> bool: ...


@dataclass(frozen=True)
class Served:
    """An artefact that was marked as served."""

    name: str
    kind: str
    hash: str
    at: str
    where: str | None
    requests: Sequence[str]


@dataclass(frozen=True)
class Queue:
    """All requests, in the order of the ledger (overdue first), and what was served, oldest first."""

    requests: Sequence[Ticket]
    served: Sequence[Served]

    @property
    def states(self) -> list[str]:
        return sorted({request.state for request in self.requests})

    @property
    def open(self) -> int:
        return sum(request.state not in ("deployed", "withdrawn") for request in self.requests)

    @property
    def overdue(self) -> int:
        return sum(request.overdue() for request in self.requests)


def read_queue(store: AdapterStore) -> Queue | None:
    """The queue of a store; None where it has no ledger."""
    return None
