"""A file for several threads, each with a handle of its own: none waits for another's place in the file."""

import threading
from io import FileIO
from pathlib import Path
from typing import Literal


class Handles:
    """Unbuffered handles, one a thread, to the file that the thread asked for last.

    Args:
        mode: ``rb`` to read, ``r+b`` to write what is there too.
    """

    def __init__(self, mode: Literal["rb", "r+b"]):
        self._mode = mode
        self._open: dict[int, tuple[Path, FileIO]] = {}  # by thread

    def at(self, path: Path, offset: int) -> FileIO:
        """The calling thread's handle to the file, at this offset in bytes.

        Raises:
            OSError: as :func:`open` does.
        """
        thread = threading.get_ident()
        held = self._open.get(thread)
        if held is None or held[0] != path:
            if held is not None:
                del self._open[thread]
                held[1].close()
            held = self._open[thread] = path, FileIO(path, self._mode)
        file = held[1]
        file.seek(offset)
        return file

    def close(self) -> None:
        """Close all of them; no thread may be at work."""
        while self._open:
            self._open.popitem()[1][1].close()
