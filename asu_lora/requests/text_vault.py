"""The one place that holds requests' texts: sealed with AES-256-GCM, and destroyed when they have served.

A text is sealed together with its request's id, so that none can be put in another's place. When it is destroyed,
commitments stay: HMAC-SHA-256 of each row under 32 random bytes of that request, which stay sealed too. Whoever has
the key can tell whether a file is the one that was handed in; whoever has only the ledger can't even try a guess.
"""

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, delete, insert, select, update

from asu_lora.data.reading import read_rows
from asu_lora.data.request import ForgetRequest, select_rows
from asu_lora.errors import DataError, KeyFault, LedgerError
from asu_lora.requests.ledger import tables
from asu_lora.requests.ledger.history import Seal
from asu_lora.requests.ledger.states import canonical

SALT_BYTES = 32
NONCE_BYTES = 12


@dataclass(frozen=True)
class RequestText:
    """The rows of a request, as its files had them.

    Attributes:
        forget: rows to forget.
        retain: rows to keep; None for the built-in general questions.
    """

    forget: list[dict[str, Any]] = field(repr=False)
    retain: list[dict[str, Any]] | None = field(default=None, repr=False)

    @classmethod
    def from_files(
        cls, forget: str | Path, retain: str | Path | None = None, where: Mapping[str, Any] | None = None
    ) -> "RequestText":
        """Read the files, and check that a forget run would take them.

        Raises:
            DataError: whatever the run would refuse.
        """
        ForgetRequest.from_files(forget, retain, dict(where or {}))
        rows = read_rows(forget)
        if where:
            rows = select_rows(rows, dict(where), str(forget))
        text = cls(_plain(rows), None if retain is None else _plain(read_rows(retain)))
        try:
            for row in text.rows():
                row.encode()
        except UnicodeEncodeError as error:
            raise DataError.about(
                forget, " or its retain file holds half a surrogate pair (\\ud800 and the like), which is no text."
            ) from error
        return text

    def request(self, name: str) -> ForgetRequest:
        """What a forget run takes."""
        return ForgetRequest.from_rows(self.forget, self.retain, name)

    def rows(self) -> list[str]:
        """Each row as one text that is the same for the same row."""
        return [canonical(row) for row in (*self.forget, *(self.retain or ()))]


class TextVault:
    """Seals and opens with one key; works on a connection, in the caller's transaction."""

    def __init__(self, key: bytes):
        """Args:
        key: 32 bytes.
        """
        self._cipher = AESGCM(key)
        self.key_id = hmac.new(key, b"asu-lora requests: name of the key", hashlib.sha256).hexdigest()[:16]
        self._seal_key = hmac.new(key, b"asu-lora requests: head of the history", hashlib.sha256).digest()

    @property
    def seal(self) -> Seal:
        """What signs the head of the history."""
        return Seal(self.key_id, self._seal_key)

    def put(self, connection: Connection, request: str, text: RequestText) -> str:
        """Seal a text in place of the one that was there; the commitment to all its rows, for the history.

        Raises:
            KeyFault: the texts in this ledger are sealed with another key.
        """
        self.check_key(connection)
        salt = os.urandom(SALT_BYTES)
        commitments = [_commit(salt, row) for row in text.rows()]
        content = json.dumps({"forget": text.forget, "retain": text.retain}, ensure_ascii=False)
        connection.execute(delete(tables.texts).where(tables.texts.c.request == request))
        connection.execute(
            insert(tables.texts).values(
                request=request,
                key_id=self.key_id,
                sealed=self._close(content.encode(), request, "text"),
                salt=self._close(salt, request, "salt"),
                commitments=canonical(commitments),
            )
        )
        return _root(commitments)

    def get(self, connection: Connection, request: str) -> RequestText:
        """Open a text.

        Raises:
            KeyFault: it was sealed with another key.
            DataError: it was tampered with.
            LedgerError: it was destroyed, or never there.
        """
        row = _row(connection, request)
        if row.sealed is None:
            raise LedgerError(
                f"The text of {request} was destroyed, its commitments alone are left: it can't be trained or asked "
                f"again, unless it is handed in anew ('asu-lora requests retry {request} --file FILE')."
            )
        return RequestText(**json.loads(self._open(row.sealed, row.key_id, request, "text")))

    def is_text_of(self, connection: Connection, request: str, text: RequestText, first: int | None = None) -> bool:
        """Whether these are the rows that the request was handed in with, destroyed or not.

        Args:
            first: compare with so many rows alone: its forget rows come before those to keep. None is all.
        """
        row = _row(connection, request)
        salt = self._open(row.salt, row.key_id, request, "salt")
        return [_commit(salt, told) for told in text.rows()] == json.loads(row.commitments)[:first]

    def holds(self, connection: Connection, request: str, text: RequestText) -> bool:
        """Whether every forget row of a text is among those that the request was handed in with, destroyed or not."""
        row = _row(connection, request)
        salt = self._open(row.salt, row.key_id, request, "salt")
        known = set(json.loads(row.commitments))
        return all(_commit(salt, canonical(told)) in known for told in text.forget)

    def check_key(self, connection: Connection) -> None:
        """Refuse a key that is not the one the texts of this ledger, or its lines before there is one, are sealed with.

        Raises:
            KeyFault: it is another.
        """
        keys = set(connection.execute(select(tables.texts.c.key_id).distinct()).scalars())
        if keys - {self.key_id}:
            raise _other_key("this ledger")
        head = connection.execute(select(tables.head.c.key_id, tables.head.c.seal)).one()
        if not keys and head.seal and head.key_id != self.key_id:
            raise KeyFault(
                "The history of this ledger is sealed with another key: set ASU_LORA_REQUESTS_KEY, or --key-file, to "
                "the one it began with, or begin another ledger, as this one holds no text yet."
            )

    def _close(self, content: bytes, request: str, what: str) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, content, f"{what}:{request}".encode())

    def _open(self, sealed: bytes, key_id: str, request: str, what: str) -> bytes:
        if key_id != self.key_id:
            raise _other_key(request)
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], f"{what}:{request}".encode())
        except InvalidTag as error:
            raise DataError.plain(
                f"The {what} of {request} was changed since it was sealed: hand it in anew, 'asu-lora requests retry "
                f"{request} --file FILE'."
            ) from error


def destroy_text(connection: Connection, request: str) -> bool:
    """Overwrite a text with nothing; whether there was one. It takes no key. The caller then scrubs the database."""
    texts = tables.texts
    found = connection.execute(
        update(texts).where(texts.c.request == request, texts.c.sealed.is_not(None)).values(sealed=None)
    )
    return found.rowcount == 1


def _row(connection: Connection, request: str) -> Any:
    row = connection.execute(select(tables.texts).where(tables.texts.c.request == request)).one_or_none()
    if row is None:
        raise LedgerError(
            f"There is no text of {request}: hand it in, 'asu-lora requests retry {request} --file FILE'."
        )
    return row


def _other_key(what: str) -> KeyFault:
    return KeyFault(
        f"The texts of {what} are sealed with another key: set ASU_LORA_REQUESTS_KEY, or --key-file, to the one they "
        "were handed in with."
    )


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as JSON can hold them: a date out of a Parquet file becomes its text, and what is no number nothing."""
    return json.loads(json.dumps(rows, ensure_ascii=False, default=str), parse_constant=lambda name: None)


def _commit(salt: bytes, row: str) -> str:
    return hmac.new(salt, row.encode(), hashlib.sha256).hexdigest()


def _root(commitments: list[str]) -> str:
    return hashlib.sha256(canonical(commitments).encode()).hexdigest()
