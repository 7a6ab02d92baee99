"""The requests of a store as the page shows them, read from its ledger."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from asu_lora.adapters.store import AdapterStore
from asu_lora.requests.deployment import Artefact, artefacts_of
from asu_lora.requests.ledger.database import Database
from asu_lora.requests.ledger.home import must_be_home
from asu_lora.requests.ledger.ledger import open_ledger
from asu_lora.requests.ledger.states import AUDITED, CLOSED, RE_AUDITED, WITHDRAWN, Line, Request


@dataclass(frozen=True)
class Served:
    """What was marked as served at one time.

    Attributes:
        artefacts: served together; most often one.
    """

    artefacts: Sequence[Artefact]
    at: str
    where: str | None

    @property
    def requests(self) -> list[str]:
        """Those in any of them."""
        return [request for artefact in self.artefacts for request in artefact.requests]

    @property
    def name(self) -> str:
        return ", ".join(artefact.name for artefact in self.artefacts)


@dataclass(frozen=True)
class Reading:
    """What an audit of the queue brought back of one request.

    Attributes:
        worst: by the strongest attack on the knowledge; None where none could tell, or the request was withdrawn.
        kept: share of its probability that what the request keeps had then; None where it wasn't measured.
        withdrawn: it was no audit, but the end of the request.
    """

    request: str
    at: str
    worst: float | None = None
    kept: float | None = None
    withdrawn: bool = False


@dataclass(frozen=True)
class Queue:
    """All requests, in the order of the ledger (overdue first), what was served and the audits, oldest first."""

    requests: Sequence[Request]
    served: Sequence[Served]
    readings: Sequence[Reading] = ()

    @property
    def worst(self) -> dict[str, float | None]:
        """{request: what the newest audit of it brought back, None if no attack could tell}, of those that stand."""
        newest = {reading.request: reading for reading in self.readings}
        return {request: reading.worst for request, reading in newest.items() if not reading.withdrawn}

    @property
    def states(self) -> list[str]:
        return sorted({request.state for request in self.requests})

    @property
    def open(self) -> int:
        return sum(request.state not in CLOSED for request in self.requests)

    @property
    def overdue(self) -> int:
        return sum(request.overdue() for request in self.requests)


def read_queue(store: AdapterStore) -> Queue | None:
    """The queue of a store, from ``ASU_LORA_DATABASE`` or the store's own file; None where there is no ledger.

    Raises:
        LedgerError: the database can't be reached, is of a newer version, or is another store's.
    """
    address = os.environ.get("ASU_LORA_DATABASE") or None
    if not Database(store.root, address).exists():
        return None
    ledger = open_ledger(store.root, address)
    must_be_home(ledger, store)
    return Queue(
        ledger.requests(),
        [_served(line) for line in ledger.served()],
        [_reading(line) for line in ledger.history(events=[AUDITED, RE_AUDITED, WITHDRAWN])],
    )


def _served(line: Line) -> Served:
    return Served(artefacts_of(line.payload), line.at, line.payload.get("where"))


def _reading(line: Line) -> Reading:
    worst, kept = (
        float(value) if isinstance(value := line.payload.get(name), int | float) else None for name in ("worst", "kept")
    )
    return Reading(str(line.request), line.at, worst, kept, line.event == WITHDRAWN)
