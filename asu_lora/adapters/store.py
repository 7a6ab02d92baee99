"""The adapter store: a folder with one folder an adapter, changed by one process at a time.

A change is prepared out of sight (:mod:`~asu_lora.adapters.staging`) and becomes visible by one rename, under
the store's lock. Changes that need more than one rename go through the :mod:`~asu_lora.adapters.journal`. So
a reader, or whoever comes after a crash, finds whole adapters only.
"""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from asu_lora.adapters.journal import Journal
from asu_lora.adapters.manifest import CONFIG_NAME
from asu_lora.adapters.request_key import keyed, make_key, read_key, same_request
from asu_lora.adapters.staging import SCRATCH, Staging
from asu_lora.adapters.stored_adapter import StoredAdapter, look_at
from asu_lora.errors import AdapterError, StoreError
from asu_lora.files import FULL, discard, disk_errors, expanded, fsync_path, fsync_tree, link_tree

if TYPE_CHECKING:
    from asu_lora.adapters.verify import VerifyReport

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
        self.staging = Staging(self.root)

    # ---- looking

    def names(self) -> Names:
        """The names in the store, sorted."""
        with self.staging.reading():
            return self._names()

    def list(self) -> Adapters:
        """All adapters, sorted by name, without reading any weights."""
        with self.staging.reading():
            return [look_at(self.root / name) for name in self._names()]

    def get(self, name: str) -> StoredAdapter:
        """One adapter by its name; an unknown name is refused with those that come close."""
        with self.staging.reading():
            self._must_exist(name)
            return look_at(self.root / name)

    def resolve(self, name_or_path: str | Path) -> Path:
        """The folder of an adapter in the store, or of a PEFT folder outside it, that looks whole."""
        text = str(name_or_path)
        with self.staging.reading():
            found = look_at(self.root / text) if text in self._names() else None
        if found is None:
            path = expanded(text)
            if path.is_file():
                raise StoreError(
                    f"{text} is a file: 'asu-lora adapters import {text}' takes an archive into the store."
                )
            if not path.is_dir():
                raise self._unknown(text)
            if not (path / CONFIG_NAME).is_file():
                inside = sorted(each.parent.name for each in path.glob(f"*/{CONFIG_NAME}"))
                hint = f", but {text.rstrip('/')}/{inside[-1]} in it is one" if inside else ""
                raise AdapterError(f"{text} has no {CONFIG_NAME}: it is no PEFT adapter folder{hint}.")
            found = look_at(path)
        if found.broken:
            raise AdapterError(f"The adapter {text} is {found.state}.")
        return found.path

    def dependents(self, name: str) -> Adapters:
        """The adapters that were trained on top of ``name``, by its name or its fingerprint."""
        with self.staging.reading():
            self._must_exist(name)
            return self._dependents(name)

    def missing_beneath(self, name: str) -> Names:
        """The adapters ``name`` was trained on top of that are not here any more, or are others by now."""
        with self.staging.reading():
            self._must_exist(name)
            manifest = look_at(self.root / name).manifest
            if not manifest or not manifest.on_top_of:
                return []
            known = {
                other.fingerprint for other in map(look_at, map(self.root.joinpath, self._names())) if not other.broken
            }
            return [below.name for below in manifest.on_top_of if below.fingerprint not in known]

    def verify(self, name: str, base_fingerprint: str | Sequence[str] | None = None) -> "VerifyReport":
        """:func:`~asu_lora.adapters.verify.verify_adapter` of one adapter, undisturbed by other processes."""
        from asu_lora.adapters.verify import verify_stored

        return verify_stored(self, name, base_fingerprint)

    # ---- adding

    def check_name(self, name: str, must_be_new: bool = True) -> None:
        """Refuse a name that no adapter can have or, if ``must_be_new``, that is taken or being made."""
        if not _NAME.fullmatch(name):
            raise StoreError(
                f"{name!r} can't be an adapter's name: take up to 100 letters, digits, '.', '_' "
                "and '-', beginning with a letter or a digit."
            )
        if must_be_new:
            with self.staging.reading():
                self._must_be_new(name)

    @contextmanager
    def stage(self, name: str, replace: bool = False) -> Iterator[Path]:
        """An empty folder to write an adapter into; it becomes ``name`` when the block ends well.

        The name is reserved at once: a second process asking for it is refused while this one lives. On any
        exception the folder is removed and the store is as it was; so it is, by whoever comes next, when this
        process is killed.

        Raises:
            StoreError: the name is odd, taken or being made, the disk refuses, or what was written is no adapter.
        """
        self.check_name(name, must_be_new=False)
        with self.staging.make(name, lambda: self._must_be_new(name, taken_is_fine=replace)) as folder:
            with disk_errors(self.root, only=FULL):
                yield folder
            if (written := look_at(folder)).broken:
                raise StoreError(f"Nothing was stored as {name}: what was written is {written.state}.")
            with disk_errors(self.root):
                fsync_tree(folder)
                with self.staging.lock():
                    self._publish(folder, name, replace)

    # ---- what a request is called

    def keyed(self, fingerprint: str) -> str:
        """A request's fingerprint under this store's secret, which is made with the first."""
        with self.staging.lock():
            return keyed(fingerprint, read_key(self.root) or make_key(self.root))

    def is_request(self, recorded: str, fingerprint: str) -> bool:
        """Whether what a manifest records is the request of this plain fingerprint."""
        return same_request(recorded, fingerprint, read_key(self.root))

    # ---- changing

    def remove(self, name: str) -> Adapters:
        """Remove an adapter; return those that were trained on top of it and now need training again."""
        with self.staging.lock():
            self._must_exist(name)
            dependents = self._dependents(name)
            aside = self.root / self.staging.set_aside()
            os.rename(self.root / name, aside)
            fsync_path(self.root)
            discard(aside)
            return dependents

    def rename(self, old: str, new: str) -> None:
        """Rename an adapter; its manifest and card, and what others' manifests say of it, follow."""
        from asu_lora.adapters.model_card import restate

        self.check_name(new, must_be_new=False)
        with self.staging.lock():
            self._must_exist(old)
            self._must_be_new(new)
            adapter, dependents = look_at(self.root / old), self._dependents(old)
            journal = Journal(self.root)
            journal.move(old, new)
            changes = {}
            if adapter.manifest:
                changes[new] = restate(adapter.path, adapter.manifest.model_copy(update={"name": new}))
            for other in dependents:
                assert other.manifest is not None  # those without one depend on nothing
                below = [
                    entry.model_copy(update={"name": new}) if entry.name == old else entry
                    for entry in other.manifest.on_top_of
                ]
                manifest = other.manifest.model_copy(update={"on_top_of": below})
                changes[other.name] = restate(other.path, manifest)
            for folder, files in changes.items():
                for file, text in files.items():
                    journal.write(f"{folder}/{file}", text)
            journal.commit()

    # ---- in and out

    def import_(self, source: str | Path, name: str | None = None) -> StoredAdapter:
        """Take in a PEFT LoRA folder, or an archive of one; it is verified first.

        A certificate in it is taken unread: :func:`asu_lora.audit.certificate.arrived.keep_if_sound` looks at it.
        """
        from asu_lora.adapters.import_export import import_adapter

        return import_adapter(self, Path(source), name)

    def export(self, name: str, destination: str | Path) -> Path:
        """Write a verified adapter to a new folder, or to an archive (.tar.gz, .tgz or .zip)."""
        from asu_lora.adapters.import_export import export_adapter

        return export_adapter(self, name, Path(destination))

    @contextmanager
    def snapshot(self, name: str) -> Iterator[Path]:
        """The adapter as it is now, in a folder that stays so while others rename, replace or remove it.

        Files of the store are never written in place, so hard links to them are enough.
        """
        if not os.access(self.root, os.W_OK):  # read-only for us: as it lies there, or missing
            self._must_exist(name)
            yield self.root / name
            return
        with self.scratch() as scratch:
            with self.staging.lock():
                self._must_exist(name)
                link_tree(self.root / name, scratch / name)
            yield scratch / name

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder on the store's own disk, removed afterwards, also after a crash."""
        with self.staging.make(SCRATCH) as folder:
            yield folder

    # ---- beneath: these expect the lock to be held

    def _names(self) -> Names:
        try:
            return sorted(
                entry.name for entry in os.scandir(self.root) if not entry.name.startswith(".") and entry.is_dir()
            )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"The adapter store {self.root} can't be read: {error.strerror}.") from error

    def _unknown(self, name: str) -> StoreError:
        names = self._names()
        if not names:
            return StoreError(f"There is no adapter {name}: the store {self.root} is empty; --store names another.")
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        if close:
            hint = f"did you mean {' or '.join(close)}?"
        else:
            hint = f"it has {', '.join(names[:10])}{f' and {len(names) - 10} more' if len(names) > 10 else ''}."
        return StoreError(f"There is no adapter {name} in the store {self.root}: {hint}")

    def _must_exist(self, name: str) -> None:
        if name not in self._names():
            raise self._unknown(name)

    def _must_be_new(self, name: str, taken_is_fine: bool = False) -> None:
        if not taken_is_fine and os.path.lexists(self.root / name):
            raise StoreError(
                f"The store {self.root} already has an adapter {name}: choose another name, or "
                "remove or rename that one first."
            )
        if self.staging.reserved(name):
            raise StoreError(
                f"An adapter {name} is being made by another process right now: choose another name, or wait for it."
            )

    def _dependents(self, name: str) -> Adapters:
        manifest = look_at(self.root / name).manifest
        fingerprint = manifest.fingerprint if manifest else None
        others = [look_at(self.root / other) for other in self._names() if other != name]
        return [
            other
            for other in others
            if other.manifest
            and any(
                below.name == name or (fingerprint and below.fingerprint == fingerprint)
                for below in other.manifest.on_top_of
            )
        ]

    def _publish(self, folder: Path, name: str, replace: bool) -> None:
        taken = os.path.lexists(self.root / name)
        if taken and not replace:
            raise StoreError(f"The store {self.root} was given an adapter {name} in the meantime.")
        if taken:
            aside = self.staging.set_aside()
            journal = Journal(self.root)
            journal.move(name, aside)
            journal.move(folder.relative_to(self.root).as_posix(), name)
            journal.commit()
            discard(self.root / aside)
        else:
            os.rename(folder, self.root / name)
            fsync_path(self.root)
