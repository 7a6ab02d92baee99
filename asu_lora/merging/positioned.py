"""Reading and writing at a place in a file, from several threads at once.

The calls with an offset need no lock and let threads copy side by side; where the system has none (Windows), seek and
read follow each other under a lock.
"""

import os
import threading
from typing import IO

_LOCK = threading.Lock()


def read_at(file: IO[bytes], offset: int, into: memoryview) -> int:
    """Fill ``into`` from a raw file; returns the bytes got, fewer than asked for at the file's end."""
    done = 0
    while done < len(into):  # a raw read may give less than was asked for: 2 GiB at most on Linux
        if hasattr(os, "preadv"):
            got = os.preadv(file.fileno(), [into[done:]], offset + done)
        else:
            with _LOCK:
                file.seek(offset + done)
                got = file.readinto(into[done:])
        if not got:
            break
        done += got
    return done


def write_at(file: IO[bytes], offset: int, view: memoryview) -> None:
    """Write all of ``view`` into a raw file."""
    while view:
        if hasattr(os, "pwrite"):
            count = os.pwrite(file.fileno(), view, offset)
        else:
            with _LOCK:
                file.seek(offset)
                count = file.write(view)
        view, offset = view[count:], offset + count
