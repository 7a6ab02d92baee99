"""What a history line does to its request: the states, which may follow which, and the state after a line.

The table of requests is nothing but :func:`after` of each line in turn; ``verify`` does it again and compares.
"""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from asu_lora.errors import LedgerError

RECEIVED, QUEUED, TRAINING, TRAINED, AUDITED = "received", "queued", "training", "trained", "audited"
DEPLOYED, WITHDRAWN, FAILED = "deployed", "withdrawn", "failed"

# state: the states it may follow; None is a request that is not there yet
FOLLOWS: dict[str, tuple[str | None, ...]] = {
    RECEIVED: (None,),
    QUEUED: (RECEIVED, TRAINING, FAILED),
    TRAINING: (QUEUED, TRAINING),
    TRAINED: (TRAINING, QUEUED),  # from queued: a run that was cut off had trained it, or it is judged again
    AUDITED: (TRAINED,),
    DEPLOYED: (TRAINED, AUDITED, DEPLOYED),
    WITHDRAWN: (RECEIVED, QUEUED, TRAINING, TRAINED, AUDITED, DEPLOYED, FAILED),
    FAILED: (RECEIVED, QUEUED, TRAINING, TRAINED),  # from trained: its audit brought too much back
}
STATES = tuple(FOLLOWS)
CLOSED = (DEPLOYED, WITHDRAWN)  # what is done by its due date, or is no request any more
# what a list can be asked for beside states: what is not closed, and what is not after its day
OPEN, OVERDUE = "open", "overdue"
LISTED_BY = (*STATES, OPEN, OVERDUE)

# events that leave the state as it is
TEXT_DESTROYED, ADAPTER_REMOVED, RE_AUDITED, AUDIT_FAILED = (
    "text-destroyed",
    "adapter-removed",
    "re-audited",
    "audit-failed",
)
PUBLISHED = "published"  # at an address beside the store
CERTIFIED = "certified"  # anew; the first certificate is told by the audit it is of
CERTIFICATE_ENDED = "certificate-ended"  # a later audit is not passed: it is taken out of the adapter's folder
CONSOLIDATED, SERVED = "consolidated", "served"  # of the ledger, not of one request
COMBINATION_BEGUN = "combination-begun"  # before any of it is written
COMBINATION_REMOVED = "combination-removed"  # what a killed run left of it

TEXT_SEALED, TEXT_NONE = "sealed", "none"  # a request's text; else TEXT_DESTROYED


@dataclass(frozen=True)
class Request:
    """Where one request stands.

    Attributes:
        state: one of :data:`STATES`.
        received, due, changed: UTC, ``2026-01-31T23:59:59Z``; changed is the time of its last line.
        owner, basis, note: who looks after it, the legal basis, anything else; as they were typed.
        rows: forget rows.
        attempts: how often its training was begun.
        adapter: its adapter's name in the store, once it is trained.
        sentence: why it failed; what is wrong with it, although it stands; or, of a trained one, why an audit refused
            its adapter, which none has judged since.
        text: ``sealed``, ``text-destroyed`` or ``none`` (its file could not be read).
        audits: how often its adapter was audited.
    """

    id: str
    state: str
    received: str
    due: str
    changed: str
    owner: str | None = None
    basis: str | None = None
    note: str | None = None
    rows: int = 0
    attempts: int = 0
    adapter: str | None = None
    sentence: str | None = None
    text: str = TEXT_NONE
    audits: int = 0

    @property
    def stands(self) -> bool:
        """Whether its adapter acts: it is trained, and no audit refused it that waits for another."""
        return self.state in (AUDITED, DEPLOYED) or (self.state == TRAINED and self.sentence is None)

    def overdue(self, now: str | None = None) -> bool:
        """Whether its day has passed and it is neither served nor withdrawn."""
        return self.state not in CLOSED and self.due < (now or utc_text())


@dataclass(frozen=True)
class Line:
    """One line of the history; ``hash`` covers all of it and the hash of the line before."""

    number: int
    at: str
    actor: str
    request: str | None
    event: str
    payload: dict[str, Any]
    previous: str
    hash: str


def after(request: Request | None, line: Line) -> Request:
    """A request after one of its lines.

    Raises:
        LedgerError: the line can't follow the state it is in.
    """
    payload, event = line.payload, line.event
    if event == RECEIVED and request is None:
        return Request(
            str(line.request),
            RECEIVED,
            line.at,
            payload["due"],
            line.at,
            owner=payload.get("owner"),
            basis=payload.get("basis"),
            note=payload.get("note"),
        )
    if request is None or event == RECEIVED:
        raise LedgerError(f"The request {line.request} can't be '{event}': it {'is there' if request else 'is not'}.")
    changes: dict[str, Any] = {"changed": line.at}
    if event in STATES:
        if request.state not in FOLLOWS[event]:
            raise LedgerError(f"The request {request.id} is {request.state}; from there it can't become {event}.")
        changes["state"] = event
        if event != DEPLOYED:  # served or not, too much came back of it
            changes["sentence"] = payload.get("sentence") if event in (FAILED, TRAINED) else None
    if event == QUEUED and "rows" in payload:
        changes |= {"rows": int(payload["rows"]), "text": TEXT_SEALED}
    elif event == TRAINING:
        changes["attempts"] = request.attempts + 1
    elif event == TRAINED:
        changes["adapter"] = payload["adapter"]
    elif event in (AUDITED, RE_AUDITED):
        changes |= {"audits": request.audits + 1, "sentence": payload.get("over") or payload.get("unjudged")}
    elif event == ADAPTER_REMOVED:
        changes["adapter"] = None
    elif event == TEXT_DESTROYED:
        changes["text"] = TEXT_DESTROYED
    return replace(request, **changes)


def utc_text(moment: datetime | None = None) -> str:
    """A moment as the ledger writes it, by default now; these sort as text in the order of time."""
    moment = (moment or datetime.now(UTC)).astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def canonical(value: Any) -> str:
    """JSON that is the same text for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
