"""The store's mark on what its audits found, and keyed hashes of the rows that they were handed.

The mark is HMAC-SHA-256 over the whole result under the store's secret. So a result that was changed by hand, or came
along with an adapter from elsewhere, is told from one that an audit with this store wrote.
"""

import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any

from asu_lora.adapters.request_key import keyed
from asu_lora.audit.certificate.commitments import row_bytes
from asu_lora.data.examples import Example

_RESULT, _ROWS = b"asu-lora audit result 1\n", b"asu-lora audited rows 1\n"


def rows_hash(rows: Sequence[Example], secret: bytes) -> str:
    """The keyed hash of rows, in their order."""
    return keyed(hashlib.sha256(_ROWS + b"\n".join(map(row_bytes, rows))).hexdigest(), secret)


def mark_of(told: dict[str, Any], secret: bytes) -> str:
    """The mark of a result as its file tells it, whatever version wrote that."""
    text = json.dumps({name: value for name, value in told.items() if name != "mark"}, sort_keys=True)
    return keyed(hashlib.sha256(_RESULT + text.encode()).hexdigest(), secret)


def is_marked(told: dict[str, Any], secret: bytes | None) -> bool:
    """Whether a result bears the mark of the store with this secret."""
    mark = told.get("mark")
    return secret is not None and isinstance(mark, str) and hmac.compare_digest(mark, mark_of(told, secret))
