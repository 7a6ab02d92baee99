"""A file for several threads, each with a handle of its own: none waits for another's place in the file."""

import threading
from pathlib import Path
from typing import IO


class Handles:
    """Unbuffered handles, one a thread, to the file that the thread asked for last.

    Args:
        mode: of :func:`open`.
    """

    def __init__(self, mode: str):
        self._mode = mode
        self._open: dict[int, tuple[Path, IO[bytes]]] = {}  # by thread

    def at(self, path: Path, offset: int) -> IO[bytes]:
        """The calling thread's handle to the file, at this offset in bytes.

        Raises:
            OSError: as :func:`open` does.
        """
        thread = threading.get_ident()
        held, file = self._open.get(thread, (None, None))
        if held != path:
            if file is not None:
                del self._open[thread]
                file.close()
            file = path.open(self._mode, buffering=0)
            self._open[thread] = path, file
        file.seek(offset)
        return file

    def close(self) -> None:
        """Close all of them; no thread may be at work."""
        while self._open:
            self._open.popitem()[1][1].close()
