"""Whose turn it is in the store, and where adapters are made before anybody can see them.

Both rest on file locks that the operating system drops when their holder dies, however it dies: the store's
own ``.lock``, held for moments, and one beside each folder of ``.staging``, held while it is being filled.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from asu_lora.adapters.journal import JOURNAL_NAME, Journal
from asu_lora.errors import StoreError
from asu_lora.files import discard, disk_errors

LOCK_NAME = ".lock"
STAGING_NAME = ".staging"
REMOVED = ".removed"  # no adapter can have such a name, so these stage nothing and reserve nothing
SCRATCH = ".scratch"
LOCK_TIMEOUT = 60.0  # seconds; the lock is held for renames only, never while weights are written


class Staging:
    """The lock of the store at ``root``, and the folders ``.staging/<name>-<uuid>`` in it."""

    def __init__(self, root: Path):
        self.root = root
        self.folder = root / STAGING_NAME

    @contextmanager
    def lock(self) -> Iterator[None]:
        """The store to ourselves, whole: a change that a dead process began is finished first.

        Raises:
            StoreError: another process keeps the lock, or the disk refuses, here or in the block.
        """
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / LOCK_NAME, timeout=LOCK_TIMEOUT, poll_interval=0.01)
            try:
                lock.acquire()
            except Timeout as error:
                raise StoreError(
                    f"The store {self.root} is locked by another process, which did not let go "
                    f"of it in {LOCK_TIMEOUT:.0f} seconds."
                ) from error
            try:
                Journal(self.root).recover()
                yield
            finally:
                lock.release()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The lock, where it can be had: a store that is read-only or not there yet is read without it."""
        if self.root.is_dir() and os.access(self.root, os.W_OK):
            with self.lock():
                yield
        else:
            yield

    @contextmanager
    def make(self, name: str, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
        """An empty folder for as long as the block lasts; ``check`` is called before, under the lock."""
        entry = f"{name}-{uuid4().hex}"
        folder, alive = self.folder / entry, FileLock(self._lock_of(entry))
        with self.lock():
            check()
            self.folder.mkdir(exist_ok=True)
            self._sweep()
            alive.acquire(timeout=0)
            folder.mkdir()
        try:
            yield folder
        finally:
            # A journal that stands may still need the folder: then whoever comes next finishes and sweeps.
            if not os.path.lexists(self.root / JOURNAL_NAME):
                discard(folder)
            alive.release()
            with suppress(OSError):
                os.unlink(alive.lock_file)

    def set_aside(self) -> str:
        """A free path, relative to the root, for what is about to be discarded. Under the lock."""
        self.folder.mkdir(exist_ok=True)
        return f"{STAGING_NAME}/{REMOVED}-{uuid4().hex}"

    def reserved(self, name: str) -> bool:
        """Whether a living process is making an adapter of this name. Under the lock."""
        return any(entry.rpartition("-")[0] == name and self._alive(entry) for entry in self._entries())

    def _entries(self) -> list[str]:
        try:
            return [entry.name for entry in os.scandir(self.folder) if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        except OSError as error:  # the store's path lies below a file, or may not be looked into
            raise StoreError(f"The adapter store {self.root} can't be read: {error.strerror}.") from error

    def _lock_of(self, entry: str) -> Path:
        return self.folder / f"{entry}.lock"

    def _alive(self, entry: str) -> bool:
        """Whether the process that made a folder still holds its lock."""
        if not self._lock_of(entry).exists():
            return False
        try:
            with FileLock(self._lock_of(entry), timeout=0):
                return False
        except Timeout:
            return True

    def _sweep(self) -> None:
        """Remove what dead processes left behind."""
        for entry in self._entries():
            if not self._alive(entry):
                discard(self.folder / entry)
        for lock in self.folder.glob("*.lock"):
            if not self._alive(lock.name.removesuffix(".lock")):
                lock.unlink(missing_ok=True)
