"""Is the history whole, and is what the ledger shows what follows from it? ``asu-lora requests verify``."""

import hmac
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, select

from asu_lora.errors import LedgerError
from asu_lora.requests.ledger import tables
from asu_lora.requests.ledger.history import NOTHING, Head, Seal, as_line, line_hash, read_head, read_rows
from asu_lora.requests.ledger.states import Request, after

MOST_FINDINGS = 20


@dataclass(frozen=True)
class Verification:
    """What a check of the ledger found.

    Attributes:
        head: as recorded.
        findings: what is wrong, a sentence each; empty for a ledger that is whole.
        sealed: up to which line the history is sealed with a key that was at hand; 0 where there was none.
    """

    head: Head
    findings: list[str]
    sealed: int = 0

    @property
    def whole(self) -> bool:
        return not self.findings


def verify(connection: Connection, seal: Seal | None = None, expect: Sequence[Head] = ()) -> Verification:
    """Walk over all lines, then compare the head, the seal, the expected head and the table of requests.

    Args:
        seal: with it, the seal of the head is checked too.
        expect: heads that were noted at any earlier times.
    """
    findings: list[str] = []
    row = connection.execute(select(tables.head)).one()
    wanted = {row.lines: "the recorded head", row.sealed_lines: "the sealed head"}
    hashes = {row.lines: row.hash, row.sealed_lines: row.sealed_hash}
    states, last, seen = _walk(connection, findings)
    if last.lines < row.lines:
        findings.append(f"The last {row.lines - last.lines} of {row.lines} lines are missing.")
    for number, what in wanted.items():
        if seen.get(number, NOTHING if number == 0 else None) != hashes[number]:
            findings.append(f"Line {number} is not the one that {what} was written for.")
    if last.lines > row.lines:
        findings.append(f"There are {last.lines - row.lines} lines after the recorded head, line {row.lines}.")
    findings += _seal_findings(row, seal)
    for noted in expect:
        if seen.get(noted.lines, NOTHING if noted.lines == 0 else None) != noted.hash:
            findings.append(
                f"The history holds no line {noted.lines} with the expected hash: lines were dropped or changed, or "
                "this is an earlier copy of the ledger."
            )
    findings += _state_findings(connection, states)
    sealed = row.sealed_lines if seal and row.seal else 0
    return Verification(read_head(connection), list(dict.fromkeys(findings))[:MOST_FINDINGS], sealed)


def _walk(connection: Connection, findings: list[str]) -> tuple[dict[str, Request], Head, dict[int, str]]:
    """Every line against the one before; the states that follow, the last line, and the hash of each."""
    states: dict[str, Request] = {}
    last, seen = Head(0, NOTHING), {}
    for row in read_rows(connection):
        if row.number != last.lines + 1:
            missing = row.number - last.lines - 1
            lines = f"line {last.lines + 1}" if missing == 1 else f"lines {last.lines + 1} to {row.number - 1}"
            findings.append(f"{lines.capitalize()} {'is' if missing == 1 else 'are'} missing.")
        elif row.previous != last.hash:
            findings.append(
                f"Line {row.number} does not follow on line {last.lines}: one of them was changed or moved."
            )
        if line_hash(dict(row._mapping)) != row.hash:
            findings.append(f"Line {row.number} was changed after it was written.")
        last = Head(row.number, row.hash)
        seen[row.number] = row.hash
        try:
            line = as_line(row)
            if line.request is not None:
                states[line.request] = after(states.get(line.request), line)
        except (LedgerError, ValueError, KeyError, TypeError) as error:
            said = str(error) if isinstance(error, LedgerError) else "its payload can't be read."
            findings.append(f"Line {row.number} makes no sense where it stands: {said}")
    return states, last, seen


def _seal_findings(row: Any, seal: Seal | None) -> list[str]:
    if seal is None or not row.lines:
        return []
    if not row.seal:
        return ["The head bears no seal: it was taken off, or every line was written without the key."]
    if row.key_id != seal.key_id:
        return ["The head was sealed with another key than the one given."]
    if not hmac.compare_digest(seal.of(Head(row.sealed_lines, row.sealed_hash)), row.seal):
        return ["The seal of the head is false: head and lines were changed by somebody without the key."]
    return []


def _state_findings(connection: Connection, states: dict[str, Request]) -> list[str]:
    """Where the table of requests says anything else than the history."""
    found = {row.id: dict(row._mapping) for row in connection.execute(select(tables.requests))}
    findings = []
    for name in sorted(found.keys() | states.keys()):
        if name not in states:
            findings.append(f"The request {name} stands in the table and not in the history.")
        elif name not in found:
            findings.append(f"The request {name} is missing in the table.")
        elif found[name] != (told := asdict(states[name])):
            wrong = ", ".join(key for key in told if found[name].get(key) != told[key])
            findings.append(f"The table shows another {wrong} of {name} than the history.")
    return findings
