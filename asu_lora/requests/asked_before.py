"""Whether a request's rows all stand in another one already: a person should hear of a ticket that came twice.

Sealed texts are compared by what their rows say, destroyed ones by their commitments, which know a row as it was typed.
"""

from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import Connection

from asu_lora.data.examples import examples_from_rows
from asu_lora.errors import AsuLoraError
from asu_lora.requests.ledger.ledger import Ledger
from asu_lora.requests.ledger.states import TEXT_DESTROYED, TEXT_SEALED, WITHDRAWN, Request
from asu_lora.requests.text_vault import RequestText, TextVault


@dataclass
class AskedBefore:
    """The requests of one ledger, each text opened once."""

    ledger: Ledger
    vault: TextVault
    _rows: dict[str, frozenset[int]] = field(default_factory=dict)

    def of(self, request: str) -> list[str]:
        """The ids of other requests, not withdrawn, that hold all forget rows of this one; [] without its text."""
        others = [each for each in self.ledger.requests() if each.id != request and each.state != WITHDRAWN]
        with self.ledger.database.reading() as connection:
            try:
                text = self.vault.get(connection, request)
            except AsuLoraError:  # it could not be read, and has none
                return []
            rows = _said(text)
            return sorted(each.id for each in others if self._holds(connection, each, text, rows))

    def _holds(self, connection: Connection, other: Request, text: RequestText, rows: frozenset[int]) -> bool:
        with suppress(AsuLoraError):  # one that was tampered with says so where it is used
            if other.text == TEXT_SEALED:
                if other.id not in self._rows:
                    self._rows[other.id] = _said(self.vault.get(connection, other.id))
                return rows <= self._rows[other.id]
            if other.text == TEXT_DESTROYED:
                return self.vault.holds(connection, other.id, text)
        return False


def same_rows_note(request: str, others: list[str]) -> str | None:
    """The sentence of it; None where there is no other."""
    if not others:
        return None
    named = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    return f"All rows of {request} stand in {named} already: if it came twice, 'asu-lora requests withdraw {request}'."


def _said(text: RequestText) -> frozenset[int]:
    return frozenset(hash(example.key()) for example in examples_from_rows(text.forget, "request"))
