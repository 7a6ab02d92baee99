"""Salted commitments: a row is fixed in the certificate without being told, and can be shown later.

``commitment = HMAC-SHA-256(salt, row)``. A salt is 32 bytes and belongs to one row of one certificate, so who guesses
a row can't confirm the guess, and showing one row tells nothing of the others. Salts are not stored: the store's
secret and the certificate's nonce give them again.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from typing import Any

from asu_lora.data.examples import Example

_PURPOSE = b"asu-lora row salt 1"


def new_nonce() -> str:
    """16 random bytes in hexadecimal, one a certificate."""
    return secrets.token_hex(16)


def row_salt(store_key: bytes, nonce: str, row: int) -> bytes:
    """The salt of a row (counted from 0) of the certificate with this nonce."""
    return hmac.new(store_key, _PURPOSE + bytes.fromhex(nonce) + row.to_bytes(8, "big"), hashlib.sha256).digest()


def row_bytes(example: Example) -> bytes:
    """A row as it is committed to: the turns of its prompt and its answer, as JSON."""
    row: list[Any] = [[[turn["role"], turn["content"]] for turn in example.prompt], example.answer]
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()


def commit(salt: bytes, row: bytes) -> str:
    """The commitment to a row under its salt, in hexadecimal."""
    return hmac.new(salt, row, hashlib.sha256).hexdigest()


def commitments(examples: Sequence[Example], store_key: bytes, nonce: str) -> list[str]:
    """The commitment of each row, in order."""
    return [commit(row_salt(store_key, nonce, number), row_bytes(row)) for number, row in enumerate(examples)]


def opens(commitment: str, salt: bytes, row: bytes) -> bool:
    """Whether salt and row are those that were committed to."""
    return hmac.compare_digest(commitment, commit(salt, row))
