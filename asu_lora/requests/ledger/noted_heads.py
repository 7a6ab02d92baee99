"""Heads of the history, noted in a file that lies elsewhere: it tells a ledger that was cut short or put back.

Whoever can write to the database can write its history anew. What they can't reach is a file on another machine, on
a disk that takes additions alone, or under another user. So each check adds the head it found, and each later check
finds all of them again in the history.
"""

import os
from pathlib import Path

from asu_lora.errors import LedgerError, SettingError
from asu_lora.requests.ledger.history import Head
from asu_lora.requests.ledger.states import utc_text


def read_heads(file: Path) -> list[Head]:
    """The heads in a file, oldest first; none where it isn't there yet.

    Raises:
        SettingError: a line of it is no head.
        LedgerError: it can't be read.
    """
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise LedgerError(
            f"The noted heads in {file} can't be read: {getattr(error, 'strerror', None) or 'no text'}."
        ) from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(Head.parse(line.split()[-1] if line.strip() else ""))
        except SettingError as error:
            raise SettingError(
                f"{file}, line {number} is no noted head (a time, then 12:3f0a...): take another file."
            ) from error
    return found


def note_head(file: Path, head: Head) -> None:
    """Add a head to the file; nothing where it is the last there already. The file is only ever added to.

    Raises:
        LedgerError: the disk refuses.
    """
    if read_heads(file)[-1:] == [head]:
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="ascii") as stream:
            stream.write(f"{utc_text()} {head}\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise LedgerError(f"The head can't be noted in {file}: {error.strerror or error}.") from error
