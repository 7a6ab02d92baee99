"""The key of the requests' texts: from the environment, from a file, or made with the first request."""

import base64
import binascii
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from asu_lora.errors import KeyFault

ENVIRONMENT = "ASU_LORA_REQUESTS_KEY"
KEY_BYTES = 32
FILE = "requests.key"


@dataclass(frozen=True)
class Key:
    """32 bytes, and where they came from.

    Attributes:
        made: whether the file was made just now: a person should hear of it, and keep a copy.
    """

    secret: bytes = field(repr=False)
    source: str
    made: bool = False


def new_key() -> str:
    """A key as it is written: 32 random bytes in URL-safe base64."""
    return base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def default_file() -> Path:
    """Where a key lies that nobody chose a place for: the user's settings, not the store, which is backed up whole."""
    return Path(platformdirs.user_config_dir("asu-lora")) / FILE


def find_key(file: str | Path | None = None, make: bool = False) -> Key:
    """The key: of the file that was named, else of the environment, else of the user's own file.

    Args:
        make: make the user's own file, readable by its owner alone, where there is no key at all.

    Raises:
        KeyFault: there is none, or what is there is no key.
    """
    told = os.environ.get(ENVIRONMENT)
    if file is None and told:
        return Key(_parse(told, ENVIRONMENT), ENVIRONMENT)
    path = Path(file) if file is not None else default_file()
    if path.is_file():
        return Key(_parse(_read(path), str(path)), str(path))
    if file is not None or not make:
        where = f"there is no file {path}" if file is not None else f"neither in {ENVIRONMENT} nor in {path}"
        raise KeyFault(f"The key of the requests' texts is missing, {where}: 'asu-lora requests key' makes one.")
    write_key(path, new_key())
    return Key(_parse(_read(path), str(path)), str(path), made=True)


def write_key(path: Path, key: str) -> None:
    """A new file that its owner alone may read; never over another.

    Raises:
        KeyFault: it is there already, or the disk refuses.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(key + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError as error:
        raise KeyFault(f"{path} is there already: a key that seals texts is not written over.") from error
    except OSError as error:
        raise KeyFault(f"The key can't be written to {path}: {error.strerror or error}.") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise KeyFault(
            f"The key file {path} can't be read: {getattr(error, 'strerror', None) or 'no text'}."
        ) from error


def _parse(text: str, source: str) -> bytes:
    try:
        key = base64.b64decode(text.strip().replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyFault(
            f"What {source} holds is no key (32 bytes in base64, 44 characters): 'asu-lora requests key' makes one."
        )
    return key
