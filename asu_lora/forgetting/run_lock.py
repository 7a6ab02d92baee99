"""One run of a name at a time: two would write their checkpoints over each other."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from asu_lora.errors import AsuLoraError, NameAtWork
from asu_lora.files import disk_errors


@contextmanager
def run_lock(runs: Path, name: str, here: PartialState) -> Iterator[None]:
    """Hold the name for as long as the block lasts; the operating system lets go of it when the process dies.

    Args:
        runs: the folder of the unfinished runs.
        here: of the processes of an ``accelerate launch`` the first alone holds the name; all are refused.

    Raises:
        NameAtWork: another run of that name is at work.
        StoreError: the disk refuses.
    """
    lock = FileLock(runs / f"{name}.lock")
    problem: AsuLoraError | None = None
    if here.is_main_process:
        try:
            with disk_errors(runs.parent):
                runs.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=0)
        except Timeout:
            problem = _at_work(name)
        except AsuLoraError as error:
            # filelock's Timeout is an OSError, which disk_errors took for one of the disk
            problem = _at_work(name) if isinstance(error.__cause__, Timeout) else error
    problem = broadcast_object_list([problem])[0]
    if problem is not None:
        raise problem
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                Path(lock.lock_file).unlink()  # while it is ours: nobody can hold a file that is about to go
            lock.release()
            with suppress(OSError):  # unfinished runs are in it, or others at work
                runs.rmdir()


def _at_work(name: str) -> NameAtWork:
    return NameAtWork(
        f"Another run of the name '{name}' is at work in this store: wait for it, or give this one another --name."
    )
