"""The store's secret, by which a manifest names its request without giving it away.

A plain hash of a request of one row lets anybody who guesses the row confirm the guess. A salt beside the hash would
not help, since who has the manifest has the salt. So the hash is keyed: HMAC-SHA-256 under 32 random bytes that never
leave the store. Whoever has the store can still tell whether an adapter is of a given request.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from uuid import uuid4

from asu_lora.files import fsync_path

KEY_NAME = ".request-key"
SCHEME = "hmac-sha256:"


def read_key(root: Path) -> bytes | None:
    """The secret of the store at ``root``; None before it has one."""
    try:
        return (root / KEY_NAME).read_bytes()
    except FileNotFoundError:
        return None


def make_key(root: Path) -> bytes:
    """A new secret, which only its owner may read. Call it under the store's lock.

    Raises:
        OSError: the disk refuses.
    """
    key, beside = secrets.token_bytes(32), root / f"{KEY_NAME}.{uuid4().hex}"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, root / KEY_NAME)
    fsync_path(root)
    return key


def keyed(fingerprint: str, key: bytes) -> str:
    """A request's fingerprint as a manifest holds it; one that is keyed already stays as it is."""
    if fingerprint.startswith(SCHEME):
        return fingerprint
    return SCHEME + hmac.new(key, fingerprint.encode(), hashlib.sha256).hexdigest()


def same_request(recorded: str, fingerprint: str, key: bytes | None) -> bool:
    """Whether a manifest's record is of the request with this plain fingerprint; older manifests hold that itself."""
    if not recorded.startswith(SCHEME):
        return hmac.compare_digest(recorded.encode(), fingerprint.encode())
    return key is not None and hmac.compare_digest(recorded, keyed(fingerprint, key))
