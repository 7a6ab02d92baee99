"""Who is at work on which request: claims that one runner can win, and that run out when it dies.

A claim is a lease: its holder extends it while it works. It can be taken over when it has run out, or at once when
its holder was a process of this very machine that is no more. Everything that is written under a claim names its
token; a holder that was taken over is refused, whatever it still wants to say.
"""

import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from sqlalchemy import Connection, delete, insert, select, update

from asu_lora.errors import LedgerError
from asu_lora.requests.ledger import tables
from asu_lora.requests.ledger.ledger import Change, Ledger
from asu_lora.requests.ledger.states import TEXT_DESTROYED, Line, Request

LEASE_SECONDS = 120.0


class LostClaim(LedgerError):
    """The claim was taken over, or its request was withdrawn: what was being done is not wanted any more."""


@dataclass(frozen=True)
class Claim:
    """One request for one runner."""

    request: Request
    token: str


@dataclass(frozen=True)
class Worker:
    """The process that claims: enough to tell later whether it still lives.

    Attributes:
        runner: a name for people: user, host and process.
        machine: host, boot and process namespace.
        process, began: its id and its start, seconds (on Linux since the machine's, elsewhere since 1970).
    """

    runner: str
    machine: str
    process: int
    began: float

    @classmethod
    def here(cls, runner: str = "") -> "Worker":
        """This process."""
        return cls(runner or f"{platform.node()}:{os.getpid()}", this_machine(), os.getpid(), _began(os.getpid()))


def this_machine() -> str:
    """Host, boot and process namespace: a process id means something within these only."""
    parts = [platform.node()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        with suppress(OSError):
            parts.append(read())
    return "/".join(parts)[:200]


def claim_next(ledger: Ledger, worker: Worker, states: Sequence[str], without: Sequence[str] = ()) -> Claim | None:
    """The request that is due first, of those in ``states`` that nobody is at work on; None if there is none.

    Without its text nothing can be done for a request: it is passed over.

    Args:
        states: in which there is something left to do.
        without: requests that this runner leaves alone.
    """
    with ledger.changing() as change:
        now = ledger.database.now(change.connection)
        free = [found for state in states if (found := _first_free(change.connection, state, without, now))]
        return _take(change, min(free)[1], worker, now) if free else None


def _first_free(connection: Connection, state: str, without: Sequence[str], now: float) -> tuple[str, str] | None:
    """Due date and id of the first request in a state that nobody is at work on. The index has this order."""
    table, claims = tables.requests, tables.claims
    query = (
        select(table.c.id, table.c.due, claims)
        .outerjoin(claims, claims.c.request == table.c.id)
        .where(table.c.state == state, table.c.text != TEXT_DESTROYED)
        .order_by(table.c.due, table.c.id)
    )
    if without:
        query = query.where(table.c.id.notin_(without))
    with connection.execute(query.execution_options(yield_per=50)) as rows:
        return next(((row.due, row.id) for row in rows if row.token is None or _is_free(row, now)), None)


def claim_one(ledger: Ledger, worker: Worker, request: str, states: Sequence[str]) -> Claim | None:
    """The claim of one request; None where somebody is at work on it, or it can't be worked on (any more)."""
    claims = tables.claims
    with ledger.changing() as change:
        found = change.get(request)
        if found is None or found.state not in states or found.text == TEXT_DESTROYED:
            return None
        now = ledger.database.now(change.connection)
        row = change.connection.execute(select(claims).where(claims.c.request == request)).one_or_none()
        return _take(change, request, worker, now) if row is None or _is_free(row, now) else None


def claim_duty(ledger: Ledger, worker: Worker, duty: str) -> Claim | None:
    """A claim of work that belongs to no request, such as combining; None where somebody is at it."""
    claims = tables.claims
    with ledger.changing() as change:
        now = ledger.database.now(change.connection)
        row = change.connection.execute(select(claims).where(claims.c.request == duty)).one_or_none()
        if row is not None and not _is_free(row, now):
            return None
        return Claim(Request(duty, "", "", "", ""), _hold(change, duty, worker, now))


def extend(ledger: Ledger, claim: Claim) -> None:
    """Say that the holder is alive.

    Raises:
        LostClaim: it is not the holder any more.
    """
    with ledger.database.changing() as connection:
        until = ledger.database.now(connection) + LEASE_SECONDS
        done = connection.execute(update(tables.claims).where(*_mine(claim)).values(until=until))
        if done.rowcount != 1:
            raise _lost(claim)


def record(
    ledger: Ledger, claim: Claim, event: str, payload: dict[str, Any] | None = None, *, release: bool = False
) -> Line:
    """A line about a claimed request, by its holder alone.

    Args:
        release: let go of it in the same transaction.

    Raises:
        LostClaim: it is not the holder any more; nothing is written.
    """
    with ledger.changing() as change:
        must_hold(change, claim)
        line = change.append(event, claim.request.id, payload)
        if release:
            change.connection.execute(delete(tables.claims).where(*_mine(claim)))
        return line


def release(ledger: Ledger, claim: Claim) -> None:
    """Let go of a request without a word; nothing where it was lost already."""
    with ledger.database.changing() as connection:
        connection.execute(delete(tables.claims).where(*_mine(claim)))


def release_of(ledger: Ledger, request: str, runner: str) -> None:
    """Let go of a request in the name of a runner that is known to be dead; nothing where another has it."""
    claims = tables.claims
    with ledger.database.changing() as connection:
        connection.execute(delete(claims).where(claims.c.request == request, claims.c.runner == runner))


def must_hold(change: Change, claim: Claim) -> None:
    """Refuse a holder that was taken over.

    Raises:
        LostClaim: with who it was.
    """
    if change.connection.execute(select(tables.claims.c.token).where(*_mine(claim))).one_or_none() is None:
        raise _lost(claim)


def is_held(ledger: Ledger, claim: Claim) -> bool:
    """Whether the claim is still its holder's."""
    with ledger.database.reading() as connection:
        return connection.execute(select(tables.claims.c.token).where(*_mine(claim))).one_or_none() is not None


def break_claim(connection: Connection, request: str) -> None:
    """Take a request out of whosever hands it is in: its holder is refused from now on."""
    connection.execute(delete(tables.claims).where(tables.claims.c.request == request))


def at_work(ledger: Ledger) -> dict[str, str]:
    """Who is at work on what: requests and their runners, of claims that still hold."""
    with ledger.database.reading() as connection:
        now = ledger.database.now(connection)
        rows = connection.execute(select(tables.claims)).all()
    return {row.request: row.runner for row in rows if not _is_free(row, now)}


def _take(change: Change, request: str, worker: Worker, now: float) -> Claim:
    token = _hold(change, request, worker, now)
    found = change.get(request)
    assert found is not None  # it was read in this transaction
    return Claim(found, token)


def _hold(change: Change, request: str, worker: Worker, now: float) -> str:
    token = uuid4().hex
    break_claim(change.connection, request)
    change.connection.execute(
        insert(tables.claims).values(
            request=request,
            token=token,
            runner=worker.runner[:200],
            machine=worker.machine,
            process=worker.process,
            began=worker.began,
            until=now + LEASE_SECONDS,
        )
    )
    return token


def _is_free(row: Any, now: float) -> bool:
    """Whether a claim has run out, or its holder is seen to be dead.

    One that ends later than any lease was made before the clock was set back; whoever lives extends it by the new one.
    """
    if row.until < now:
        return True
    if row.machine == this_machine():
        return abs(_began(row.process) - row.began) > 1.0
    return row.until > now + 2 * LEASE_SECONDS


def _began(process: int) -> float:
    """When a process began; 0 for one that is no more, or waits to be buried.

    On Linux in time since the machine's start: a clock that is set must not make a living process look like another.
    """
    with suppress(OSError, ValueError, IndexError):
        # the name, in brackets, may hold anything; the state and the start are the 1st and 20th field after it
        told = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return 0.0 if told[0] in "ZX" else float(told[19]) / os.sysconf("SC_CLK_TCK")
    try:
        found = psutil.Process(process)
        return 0.0 if found.status() == psutil.STATUS_ZOMBIE else found.create_time()
    except psutil.Error:
        return 0.0


def _mine(claim: Claim) -> tuple[Any, Any]:
    return tables.claims.c.request == claim.request.id, tables.claims.c.token == claim.token


def _lost(claim: Claim) -> LostClaim:
    return LostClaim(
        f"The request {claim.request.id} is in other hands by now, or was withdrawn: this run lets go of it."
    )
