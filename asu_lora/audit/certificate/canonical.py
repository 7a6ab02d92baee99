"""Canonical JSON (RFC 8785): one value, one text. What is signed, and the only form in which a certificate is read.

A certificate comes from strangers. JSON leaves room that a forger could use: a key given twice, blanks, ``1.0`` for
``1``. So a file counts only if it is, byte by byte, what its own content is written as.
"""

import json
from typing import Any

import rfc8785

from asu_lora.errors import CertificateError
from asu_lora.files import refuse_depth

MAX_BYTES = 8 << 20  # a request of 50,000 rows has 4 MB of commitments


def canonical(value: Any) -> bytes:
    """The canonical bytes of a JSON value.

    Raises:
        CertificateError: it holds NaN, infinity, a whole number beyond 2^53 or half a surrogate pair.
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise CertificateError(f"It can't be written as canonical JSON: {error}.") from error


def read_canonical(data: bytes) -> Any:
    """The value of canonical JSON, and of nothing else.

    Raises:
        CertificateError: it is too large, no JSON, nested too deep, or not in canonical form.
    """
    if len(data) > MAX_BYTES:
        raise CertificateError(f"it has more than {MAX_BYTES >> 20} MiB")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except RecursionError as error:
        raise CertificateError("it is nested too deep") from error
    except ValueError as error:  # text that is no UTF-8 is one, too
        raise CertificateError(f"it is not JSON: {error}") from error
    try:
        refuse_depth(value)
    except ValueError as error:
        raise CertificateError(str(error)) from error
    if canonical(value) != data:
        raise CertificateError("it is not in canonical form: it was changed, or written by another program")
    return value


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands in it twice")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")
