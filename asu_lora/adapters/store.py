"""The adapter store: a folder with one folder an adapter, changed by one process at a time.

A change is prepared out of sight in ``.staging`` and becomes visible by one rename, under a file lock that
the operating system drops when its holder dies. Changes that need more than one rename go through the
:mod:`~asu_lora.adapters.journal`. So a reader, or whoever comes after a crash, finds whole adapters only.
"""

import difflib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from asu_lora.adapters.atomic import discard, fsync_path, fsync_tree
from asu_lora.adapters.journal import JOURNAL_NAME, Journal
from asu_lora.adapters.manifest import CONFIG_NAME
from asu_lora.adapters.stored import StoredAdapter, look_at
from asu_lora.errors import AdapterError, StoreError

LOCK_NAME = ".lock"
STAGING_NAME = ".staging"
REMOVED = ".removed"  # no adapter can have such a name, so these stage nothing and reserve nothing
SCRATCH = ".scratch"
LOCK_TIMEOUT = 60.0   # seconds; the lock is held for renames only, never while weights are written

# The class has a method called list, which hides the builtin from its own annotations.
Names = list[str]
Adapters = list[StoredAdapter]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class AdapterStore:
    """The adapters below ``root``. Nothing is created before the first adapter comes.

    Hidden entries (``.lock``, ``.staging``, ``.journal``) and files such as ``README.md`` are no adapters.
    Methods raise :class:`~asu_lora.errors.StoreError` for names and for a disk that refuses, and
    :class:`~asu_lora.errors.AdapterError` for an adapter that is broken.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.staging = self.root / STAGING_NAME

    # ---- looking

    def names(self) -> Names:
        """The names in the store, sorted."""
        with self._reading():
            return self._names()

    def list(self) -> Adapters:
        """All adapters, sorted by name, without reading any weights."""
        with self._reading():
            return [look_at(self.root / name) for name in self._names()]

    def get(self, name: str) -> StoredAdapter:
        """One adapter by its name; an unknown name is refused with those that come close."""
        with self._reading():
            self._must_exist(name)
            return look_at(self.root / name)

    def resolve(self, name_or_path: str | Path) -> Path:
        """The folder of an adapter in the store, or of a PEFT folder outside it, that looks whole."""
        text = str(name_or_path)
        with self._reading():
            found = look_at(self.root / text) if text in self._names() else None
        if found is None:
            path = Path(text).expanduser()
            if not path.is_dir():
                if path.is_file():
                    raise StoreError(f"{text} is a file: 'asu-lora adapters import {text}' takes an archive "
                                     "into the store.")
                raise self._unknown(text)
            if not (path / CONFIG_NAME).is_file():
                raise AdapterError(f"{text} has no {CONFIG_NAME}: it is no PEFT adapter folder.")
            found = look_at(path)
        if found.broken:
            raise AdapterError(f"The adapter {text} is {found.state}.")
        return found.path

    def dependents(self, name: str) -> Adapters:
        """The adapters that were trained on top of ``name``, by its name or its fingerprint."""
        with self._reading():
            self._must_exist(name)
            return self._dependents(name)

    # ---- adding

    def check_name(self, name: str, must_be_new: bool = True) -> None:
        """Refuse a name that no adapter can have or, if ``must_be_new``, that is taken or being made."""
        if not _NAME.fullmatch(name):
            raise StoreError(f"{name!r} can't be an adapter's name: take up to 100 letters, digits, '.', '_' "
                             "and '-', beginning with a letter or a digit.")
        if must_be_new:
            with self._reading():
                self._must_be_new(name)

    @contextmanager
    def stage(self, name: str, replace: bool = False) -> Iterator[Path]:
        """An empty folder to write an adapter into; it becomes ``name`` when the block ends well.

        The name is reserved at once: a second process asking for it is refused while this one lives. On any
        exception the folder is removed and the store is as it was; so it is, by whoever comes next, when this
        process is killed.

        Raises:
            StoreError: the name is odd, taken (unless ``replace``) or being made, or the disk refuses.
        """
        self.check_name(name, must_be_new=False)
        with self._scratch(name, lambda: self._must_be_new(name, taken_is_fine=replace)) as folder:
            yield folder
            if (written := look_at(folder)).broken:
                raise StoreError(f"Nothing was stored as {name}: what was written is {written.state}.")
            with _disk_errors(self.root):
                fsync_tree(folder)
                with self._lock():
                    self._publish(folder, name, replace)

    # ---- changing

    def remove(self, name: str) -> Adapters:
        """Remove an adapter; return those that were trained on top of it and now need training again."""
        with self._lock():
            self._must_exist(name)
            dependents = self._dependents(name)
            self.staging.mkdir(exist_ok=True)
            aside = self.staging / f"{REMOVED}-{uuid4().hex}"
            os.rename(self.root / name, aside)
            fsync_path(self.root)
            discard(aside)
            return dependents

    def rename(self, old: str, new: str) -> None:
        """Rename an adapter; its manifest and card, and what others' manifests say of it, follow."""
        from asu_lora.adapters.model_card import restate

        self.check_name(new, must_be_new=False)
        with self._lock():
            self._must_exist(old)
            self._must_be_new(new)
            adapter, dependents = look_at(self.root / old), self._dependents(old)
            journal = Journal(self.root)
            journal.move(old, new)
            changes = {}
            if adapter.manifest:
                changes[new] = restate(adapter.path, adapter.manifest.model_copy(update={"name": new}))
            for other in dependents:
                below = [entry.model_copy(update={"name": new}) if entry.name == old else entry
                         for entry in other.manifest.on_top_of]
                manifest = other.manifest.model_copy(update={"on_top_of": below})
                changes[other.name] = restate(other.path, manifest)
            for folder, files in changes.items():
                for file, text in files.items():
                    journal.write(f"{folder}/{file}", text)
            journal.commit()

    # ---- in and out, see asu_lora.adapters.transfer

    def import_(self, source: str | Path, name: str | None = None) -> StoredAdapter:
        """Take in a PEFT LoRA folder, or an archive of one; it is verified first."""
        from asu_lora.adapters.transfer import import_adapter

        return import_adapter(self, Path(source), name)

    def export(self, name: str, destination: str | Path) -> Path:
        """Write a verified adapter to a new folder, or to an archive (.tar.gz, .tgz or .zip)."""
        from asu_lora.adapters.transfer import export_adapter

        return export_adapter(self, name, Path(destination))

    @contextmanager
    def snapshot(self, name: str) -> Iterator[Path]:
        """The adapter as it is now, in a folder that stays so while others rename, replace or remove it.

        Files of the store are never written in place, so hard links to them are enough.
        """
        from asu_lora.adapters.transfer import link_tree

        with self._scratch(SCRATCH) as scratch:
            with self._lock():
                self._must_exist(name)
                link_tree(self.root / name, scratch / name)
            yield scratch / name

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder on the store's own disk, removed afterwards, also after a crash."""
        with self._scratch(SCRATCH) as folder:
            yield folder

    # ---- beneath: all of these but the context managers expect the lock to be held

    def _names(self) -> Names:
        try:
            return sorted(entry.name for entry in os.scandir(self.root)
                          if not entry.name.startswith(".") and entry.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"The adapter store {self.root} can't be read: {error.strerror}.") from error

    def _unknown(self, name: str) -> StoreError:
        names = self._names()
        if not names:
            return StoreError(f"There is no adapter {name}: the store {self.root} is empty.")
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(names[:10])}" + (
            f" and {len(names) - 10} more." if len(names) > 10 else ".")
        return StoreError(f"There is no adapter {name} in the store {self.root}: {hint}")

    def _must_exist(self, name: str) -> None:
        if name not in self._names():
            raise self._unknown(name)

    def _must_be_new(self, name: str, taken_is_fine: bool = False) -> None:
        if not taken_is_fine and os.path.lexists(self.root / name):
            raise StoreError(f"The store {self.root} already has an adapter {name}: choose another name, or "
                             "remove or rename that one first.")
        if any(entry.rpartition("-")[0] == name and self._alive(entry) for entry in self._staged()):
            raise StoreError(f"An adapter {name} is being made by another process right now: choose another "
                             "name, or wait for it.")

    def _dependents(self, name: str) -> Adapters:
        manifest = look_at(self.root / name).manifest
        fingerprint = manifest.fingerprint if manifest else None
        others = [look_at(self.root / other) for other in self._names() if other != name]
        return [other for other in others if other.manifest
                and any(below.name == name or (fingerprint and below.fingerprint == fingerprint)
                        for below in other.manifest.on_top_of)]

    def _publish(self, folder: Path, name: str, replace: bool) -> None:
        taken = os.path.lexists(self.root / name)
        if taken and not replace:
            raise StoreError(f"The store {self.root} was given an adapter {name} in the meantime.")
        if taken:
            aside = f"{STAGING_NAME}/{REMOVED}-{uuid4().hex}"
            journal = Journal(self.root)
            journal.move(name, aside)
            journal.move(f"{STAGING_NAME}/{folder.name}", name)
            journal.commit()
            discard(self.root / aside)
        else:
            os.rename(folder, self.root / name)
            fsync_path(self.root)

    @contextmanager
    def _scratch(self, name: str, check=lambda: None) -> Iterator[Path]:
        """A folder ``.staging/<name>-<uuid>``, with a lock beside it that says that its maker lives."""
        entry = f"{name}-{uuid4().hex}"
        folder, alive = self.staging / entry, FileLock(self.staging / f"{entry}.lock")
        with self._lock():
            check()
            self.staging.mkdir(exist_ok=True)
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

    def _staged(self) -> Names:
        with suppress(FileNotFoundError):
            return [entry.name for entry in os.scandir(self.staging) if entry.is_dir(follow_symlinks=False)]
        return []

    def _alive(self, entry: str) -> bool:
        """Whether the process that made a staging folder still holds its lock."""
        path = self.staging / f"{entry}.lock"
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                return False
        except Timeout:
            return True

    def _sweep(self) -> None:
        """Remove what dead processes left in ``.staging``."""
        for entry in self._staged():
            if not self._alive(entry):
                discard(self.staging / entry)
        for lock in self.staging.glob("*.lock"):
            if not self._alive(lock.name.removesuffix(".lock")):
                lock.unlink(missing_ok=True)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """The store to ourselves, whole: a change that a dead process began is finished first."""
        with _disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / LOCK_NAME, timeout=LOCK_TIMEOUT, poll_interval=0.01)
            try:
                lock.acquire()
            except Timeout as error:
                raise StoreError(f"The store {self.root} is locked by another process, which did not let go "
                                 f"of it in {LOCK_TIMEOUT:.0f} seconds.") from error
            try:
                Journal(self.root).recover()
                yield
            finally:
                lock.release()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """The lock, where it can be had: a store that is read-only or not there yet is read without it."""
        if self.root.is_dir() and os.access(self.root, os.W_OK):
            with self._lock():
                yield
        else:
            yield


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    """Say a refusal of the disk (full, read-only, no permission) in one sentence."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename and str(error.filename) != str(root) else ""
        why = f"{error.strerror or error}{where}"
        raise StoreError(f"The adapter store {root} can't be changed: {why}.") from error
