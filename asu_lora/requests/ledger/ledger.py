"""The ledger of one store: requests in, their states out, every change a line of the history.

Changes are whole or not there: :meth:`Ledger.changing` holds the history, so that what is looked at inside is what is
changed, by any number of processes on any number of machines.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, insert, or_, select, update

from asu_lora.errors import LedgerError
from asu_lora.requests.ledger import history, tables
from asu_lora.requests.ledger.database import Database
from asu_lora.requests.ledger.history import Head, Seal
from asu_lora.requests.ledger.states import (
    AUDITED,
    CLOSED,
    DEPLOYED,
    OPEN,
    OVERDUE,
    TRAINED,
    Line,
    Request,
    after,
    utc_text,
)
from asu_lora.requests.ledger.verification import Verification, verify
from asu_lora.requests.ledger.words import check_words


class Change:
    """What can be done while the history is held.

    Attributes:
        connection: in whose transaction everything is.
    """

    def __init__(self, connection: Connection, actor: str, seal: Seal | None):
        self.connection = connection
        self._actor, self._seal = actor, seal
        self._head = history.hold(connection)

    def get(self, request: str) -> Request | None:
        """The request as it is now; None where there is none."""
        return _read(self.connection, request)

    def append(self, event: str, request: str | None = None, payload: dict[str, Any] | None = None) -> Line:
        """Write a line, and let its request follow.

        Raises:
            LedgerError: the request's state forbids it.
        """
        line, self._head = history.append(
            self.connection, self._head, event, request, payload or {}, self._actor, seal=self._seal
        )
        if request is not None:
            before = self.get(request)
            values = asdict(after(before, line))
            table = tables.requests
            if before is None:
                self.connection.execute(insert(table).values(**values))
            else:
                self.connection.execute(update(table).where(table.c.id == request).values(**values))
        return line


class Ledger:
    """The requests of a store.

    Attributes:
        database: under it.
        actor: who changes it, for the history.
        seal: signs the history's head, where the requests' key is at hand.
    """

    def __init__(self, database: Database, actor: str = "", seal: Seal | None = None):
        check_words("actor", actor)
        self.database, self.actor, self.seal = database, actor or "unknown", seal

    # ---- changing

    @contextmanager
    def changing(self) -> Iterator[Change]:
        """Hold the history; what is done in the block is done whole or not at all."""
        with self.database.changing() as connection:
            yield Change(connection, self.actor, self.seal)

    def record(self, event: str, request: str | None = None, payload: dict[str, Any] | None = None) -> Line:
        """One line by itself.

        Raises:
            LedgerError: the request isn't there, or its state forbids it.
        """
        with self.changing() as change:
            return change.append(event, request, payload)

    # ---- looking

    def find(self, request: str) -> Request | None:
        """One request; None where there is none of that id."""
        with self.database.reading() as connection:
            return _read(connection, request)

    def get(self, request: str) -> Request:
        """One request.

        Raises:
            LedgerError: there is none of that id.
        """
        with self.database.reading() as connection:
            found = _read(connection, request)
            if found is None:
                raise _unknown(connection, request)
        return found

    def requests(self, states: Sequence[str] = (), overdue: bool = False) -> list[Request]:
        """All requests, or those in some states: overdue ones first, then open ones by their due date, then the rest.

        Args:
            states: of :data:`~asu_lora.requests.ledger.states.LISTED_BY`; what is in any of them.
            overdue: those alone.
        """
        table, now = tables.requests, utc_text()
        late = and_(table.c.state.notin_(CLOSED), table.c.due < now)
        query = select(table).order_by(
            case((late, 0), (table.c.state.notin_(CLOSED), 1), else_=2), table.c.due, table.c.id
        )
        if states:
            wanted: list[ColumnElement[bool]] = [table.c.state.in_(states)]
            wanted += [table.c.state.notin_(CLOSED)] if OPEN in states else []
            wanted += [late] if OVERDUE in states else []
            query = query.where(or_(*wanted))
        if overdue:
            query = query.where(late)
        with self.database.reading() as connection:
            return [Request(**row._mapping) for row in connection.execute(query)]

    def standing(self) -> list[Request]:
        """Requests whose adapters act, see :attr:`Request.stands`."""
        return [request for request in self.requests([TRAINED, AUDITED, DEPLOYED]) if request.stands]

    def counts(self) -> dict[str, int]:
        """How many requests are in each state; ``overdue`` beside them."""
        table = tables.requests
        with self.database.reading() as connection:
            rows = connection.execute(select(table.c.state, func.count().label("number")).group_by(table.c.state))
            found = {row.state: row.number for row in rows}
            late = select(func.count()).where(table.c.state.notin_(CLOSED), table.c.due < utc_text())
            return found | {"overdue": connection.execute(late).scalar_one()}

    def history(self, request: str | None = None, events: Sequence[str] = (), last: int | None = None) -> list[Line]:
        """The lines of one request, or all; or those with some events alone; or the last so many of them."""
        if request is not None:
            self.get(request)
        with self.database.reading() as connection:
            return [history.as_line(row) for row in history.read_rows(connection, request, events, last)]

    def head(self) -> Head:
        """How many lines there are, and the hash of the last."""
        with self.database.reading() as connection:
            return history.read_head(connection)

    def verify(self, *expect: Head) -> Verification:
        """Whether a line was changed, dropped or moved, or the states are others than follow from the lines.

        Args:
            expect: heads noted earlier, which must still be in the history.
        """
        with self.database.reading() as connection:
            return verify(connection, self.seal, expect)

    def bound_to(self, connection: Connection) -> str | None:
        """The store that it belongs to, see :mod:`~asu_lora.requests.ledger.home`; None where nothing says."""
        table = tables.history
        query = select(table.c.payload).where(table.c.request.is_(None), table.c.event == "bound")
        told = connection.execute(query.order_by(table.c.number).limit(1)).scalar_one_or_none()
        return json.loads(told)["store"] if told else None

    def consolidated(self) -> list[Line]:
        """The adapters that were made of several requests' adapters, a line each."""
        return self._lines("consolidated")

    def served(self) -> list[Line]:
        """What was deployed, the newest last: its name, hash and contents in the payload."""
        return self._lines("served")

    def _lines(self, event: str) -> list[Line]:
        table = tables.history
        query = select(table).where(table.c.request.is_(None), table.c.event == event).order_by(table.c.number)
        with self.database.reading() as connection:
            return [history.as_line(row) for row in connection.execute(query)]


def open_ledger(
    store: str | Path, address: str | None = None, *, actor: str = "", seal: Seal | None = None, create: bool = False
) -> Ledger:
    """The ledger of a store, at the newest schema.

    Args:
        store: the adapter store; its ledger is a SQLite file in it, unless there is an address.
        address: a database, as SQLAlchemy writes it.
        create: make it where there is none.

    Raises:
        LedgerError: there is none, it can't be reached, or it is of a newer version.
    """
    database = Database(store, address)
    if create:
        database.prepare()
    else:
        database.check()
    return Ledger(database, actor, seal)


def _read(connection: Connection, request: str) -> Request | None:
    row = connection.execute(select(tables.requests).where(tables.requests.c.id == request)).one_or_none()
    return Request(**row._mapping) if row else None


def _unknown(connection: Connection, request: str) -> LedgerError:
    table = tables.requests
    query = select(table.c.id).where(or_(table.c.id.contains(request[:50], autoescape=True), table.c.state != ""))
    near = connection.execute(query.order_by(table.c.id).limit(5)).scalars().all()
    hint = f"it has {', '.join(near)}{' ...' if len(near) == 5 else ''}." if near else "it is empty."
    return LedgerError(f"There is no request {request} in the ledger: {hint}")
