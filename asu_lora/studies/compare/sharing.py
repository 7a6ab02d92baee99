"""A comparison's folder in several processes: each takes the runs that no other is making."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from asu_lora.files import check_writable, disk_errors
from asu_lora.progress import Progress, Relay
from asu_lora.studies.compare.grid import Run
from asu_lora.studies.compare.runner import Runner

WAIT = 1.0  # seconds between looks at another process's run


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the folder inside the block, which must be short: other processes wait.

    Raises:
        StoreError: the disk refuses, here or in the block.
    """
    check_writable(out)
    with disk_errors(out, "folder"), FileLock(out / ".lock"):
        yield


@contextmanager
def taken(runner: Runner, run: Run) -> Iterator[bool]:
    """Whether the run is this process's inside the block; it is another's while that lives and makes it."""
    runner.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(runner.folder / f".{run.name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def make_all(runs: Sequence[Run], runner: Runner, progress: Progress) -> None:
    """One run after another that isn't there yet, with a note before and after each.

    What another process is making is left to it, and waited for in the end. If that process is gone, it is made here.
    """
    of, runs = len(runs), [run for run in runs if not runner.finished(run)]
    if len(runs) < of:
        progress.note(f"{of - len(runs)} of {of} runs are in {runner.comparison.out} already.")
    took: list[float] = []
    todo, waited_for = list(enumerate(runs, start=1)), list[tuple[int, Run]]()
    while todo:
        others: list[tuple[int, Run]] = []
        for number, run in todo:
            with taken(runner, run) as mine:
                if not mine:
                    others.append((number, run))
                elif not runner.finished(run):
                    left = len(runs) - number + 1
                    took.append(_make(run, runner, progress, f"{number} of {len(runs)}", _minutes(left, took)))
        if others and len(others) == len(waited_for):
            time.sleep(WAIT)
        elif others:
            progress.stage(f"Waiting for another process, which makes {len(others)} of the runs")
        todo = waited_for = others


def _minutes(runs: int, took: Sequence[float]) -> str:
    left = runs * sum(took) / len(took) / 60 if took else 0
    return f", about {left:.0f} min left" if left >= 1 else ""


def _make(run: Run, runner: Runner, progress: Progress, which: str, remaining: str) -> float:
    """Make a run; the seconds that it took."""
    progress.note(f"Run {which}: {run.title}{remaining}.")
    started = time.monotonic()
    result = runner.make(run, Numbered(progress, f"{which.replace(' of ', '/')} "))
    seconds = time.monotonic() - started
    progress.note(f"{run.title}: {result.outcome()} ({seconds:.0f} s).")
    return seconds


class Numbered(Relay):
    """A listener that hears each stage with the run's number before it."""

    def __init__(self, progress: Progress, number: str):
        super().__init__(progress)
        self.number = number

    def stage(self, name: str, total: int | None = None) -> None:
        super().stage(self.number + name, total)
