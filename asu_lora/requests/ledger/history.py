"""The history: lines that are only ever added, each with a hash over itself and the hash of the line before.

A line that was changed, dropped or moved breaks the chain. The chain alone does not tell that its last lines are
missing. So its head (how many lines, and the last hash) is recorded beside it, with a seal under the requests' key
whenever a command has that key. A seal that is false, or was taken off, is never replaced: what comes later would
hide it. A head that somebody noted elsewhere, ``verify --expect``, tells even a whole ledger that was put back to an
earlier day.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from asu_lora.errors import SettingError
from asu_lora.requests.ledger import tables
from asu_lora.requests.ledger.states import Line, canonical, utc_text

NOTHING = "0" * 64  # what the first line has for the hash before it
READ_AT_ONCE = 1000


@dataclass(frozen=True)
class Head:
    """How many lines a history has, and the hash of the last: worth noting where nobody can change it."""

    lines: int
    hash: str

    def __str__(self) -> str:
        return f"{self.lines}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        """What :meth:`__str__` wrote.

        Raises:
            SettingError: it is no head.
        """
        if not (found := re.fullmatch(r"(\d+):([0-9a-f]{64})", text.strip())):
            raise SettingError(
                f"'{text}' is no head of a history: it is written like 12:3f0a..., as 'verify' shows it."
            )
        return cls(int(found[1]), found[2])


@dataclass(frozen=True)
class Seal:
    """Signs heads under the requests' key.

    Attributes:
        key_id: which key, for sentences.
        key: 32 bytes, made from the requests' key for this alone.
    """

    key_id: str
    key: bytes = field(repr=False)

    def of(self, head: Head) -> str:
        return hmac.new(self.key, str(head).encode(), hashlib.sha256).hexdigest()


def line_hash(line: dict[str, Any]) -> str:
    """SHA-256 over a line's number, time, actor, request, event, payload (as text) and the hash before it."""
    told = [line[key] for key in ("number", "at", "actor", "request", "event", "payload", "previous")]
    return hashlib.sha256(canonical(told).encode()).hexdigest()


def hold(connection: Connection) -> Head:
    """Have the history to ourselves until the transaction ends; the head as it is.

    The update comes before anything is read: other writers wait here, on any database.
    """
    connection.execute(update(tables.head).where(tables.head.c.id == 1).values(id=1))
    return read_head(connection)


def read_head(connection: Connection) -> Head:
    """The recorded head."""
    row = connection.execute(select(tables.head.c.lines, tables.head.c.hash)).one()
    return Head(row.lines, row.hash)


def append(
    connection: Connection,
    head: Head,
    event: str,
    request: str | None,
    payload: dict[str, Any],
    actor: str,
    *,
    seal: Seal | None = None,
) -> tuple[Line, Head]:
    """Write the next line and move the head; the caller holds the history."""
    values: dict[str, Any] = {
        "number": head.lines + 1,
        "at": utc_text(),
        "actor": actor[:200],
        "request": request,
        "event": event,
        "payload": canonical(payload),
        "previous": head.hash,
    }
    values["hash"] = line_hash(values)
    connection.execute(insert(tables.history).values(**values))
    new = Head(values["number"], values["hash"])
    sealed = (
        {"sealed_lines": new.lines, "sealed_hash": new.hash, "key_id": seal.key_id, "seal": seal.of(new)}
        if seal and _seal_is_true(connection, head, seal)
        else {}
    )
    connection.execute(
        update(tables.head).where(tables.head.c.id == 1).values(lines=new.lines, hash=new.hash, **sealed)
    )
    return as_line(values), new


def _seal_is_true(connection: Connection, head: Head, seal: Seal) -> bool:
    """Whether the head bears this key's seal, over a line that is still there; a history without lines needs none."""
    if not head.lines:
        return True
    row, lines = connection.execute(select(tables.head)).one(), tables.history
    if not row.seal or row.key_id != seal.key_id:
        return False
    if not hmac.compare_digest(seal.of(Head(row.sealed_lines, row.sealed_hash)), row.seal):
        return False
    there = connection.execute(select(lines.c.hash).where(lines.c.number == row.sealed_lines)).scalar_one_or_none()
    return there == row.sealed_hash and row.sealed_lines <= head.lines


def read_rows(
    connection: Connection, request: str | None = None, events: Sequence[str] = (), last: int | None = None
) -> Iterator[Row[Any]]:
    """The lines as they stand in the table, in their order; of one request, or all; with some events alone."""
    table = tables.history
    query = select(table).order_by(table.c.number if last is None else table.c.number.desc())
    if request is not None:
        query = query.where(table.c.request == request)
    if events:
        query = query.where(table.c.event.in_(events))
    if last is not None:
        yield from reversed(connection.execute(query.limit(last)).all())
    else:
        yield from connection.execute(query.execution_options(yield_per=READ_AT_ONCE))


def as_line(row: Any) -> Line:
    """A row of the table, or the values for one, as a line."""
    values = dict(row) if isinstance(row, dict) else dict(row._mapping)
    return Line(**(values | {"payload": json.loads(values["payload"])}))
