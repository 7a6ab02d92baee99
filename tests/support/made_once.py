"""Folders that take seconds to make and are only read: one of the processes that share the tests makes each."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def made_once(temporary, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that ``make`` filled, in this process or in another.

    Args:
        temporary: pytest's ``tmp_path_factory``. Below xdist, the folder above it is that of all processes.
        name: what tells the folder from others.
    """
    root = temporary.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "made-once" / name
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            being_made = folder.with_name(f"{name}.part")
            shutil.rmtree(being_made, ignore_errors=True)
            make(being_made)
            being_made.rename(folder)
    return folder
