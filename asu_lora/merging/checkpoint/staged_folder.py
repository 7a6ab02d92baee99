"""A folder that is there whole or not at all, whenever the process dies or the power goes.

It is filled under a hidden name beside its place and renamed at the end. Each such folder has a lock beside it, which
the system drops with the process that holds it: so the next merge knows what a dead one left, and removes it.
"""

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from asu_lora.errors import SettingError
from asu_lora.files import discard, fsync_path, fsync_tree

_NAME = re.compile(r"\..+\.[0-9a-f]{8}")
_OLD = 24 * 3600  # seconds after which a folder without a lock, as earlier programs made them, is nobody's


@contextmanager
def staged_folder(out: str | Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its name when everything is written and on the disk, and vanishes when
    something fails.

    Raises:
        SettingError: ``out`` holds something already, or can't be written.
    """
    out = Path(out).absolute()
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise SettingError(f"{out} exists already and is not empty: choose another folder.")
        out.parent.mkdir(parents=True, exist_ok=True)
        sweep(out.parent)
        stage = out.parent / f".{out.name}.{uuid4().hex[:8]}"
        lock = FileLock(_lock_of(stage))
        lock.acquire(timeout=0)
        try:
            stage.mkdir()
            yield stage
            fsync_tree(stage)
            if out.exists():
                out.rmdir()
            os.replace(stage, out)
            _fsync_folder(out.parent)
        finally:
            discard(stage)
            lock.release()
            with suppress(OSError):
                os.unlink(lock.lock_file)
    except OSError as error:
        raise SettingError(f"{out} can't be written: {error.strerror or str(error).rstrip('.')}.") from error


def sweep(parent: Path) -> None:
    """Remove the folders that dead processes left in ``parent``; what can't be looked at or removed stays."""
    with suppress(OSError):
        for entry in os.scandir(parent):
            if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError, Timeout):
                    _remove_if_dead(Path(entry.path))


def _remove_if_dead(stage: Path) -> None:
    path = _lock_of(stage)
    if not path.exists():
        if _NAME.fullmatch(stage.name) and _is_unfinished(stage) and time.time() - stage.stat().st_mtime > _OLD:
            discard(stage)
        return
    with FileLock(path, timeout=0):
        discard(stage)
        path.unlink(missing_ok=True)


def _is_unfinished(stage: Path) -> bool:
    """Whether it is a merge's at all: shards that wait for their names lie in it, and hardly anything else."""
    names = [path.name for path in stage.iterdir()]
    return bool(names) and all(re.fullmatch(r"shard-[0-9]+\.part", name) for name in names)


def _lock_of(stage: Path) -> Path:
    return stage.with_name(f"{stage.name}.lock")


def _fsync_folder(folder: Path) -> None:
    """The rename itself onto the disk, where the file system knows how to."""
    try:
        fsync_path(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise
