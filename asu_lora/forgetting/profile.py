"""Where the seconds of a run go: by stage, and operation by operation for a few training steps."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule
from transformers import TrainerCallback

from asu_lora.files import check_writable, disk_errors, write_files
from asu_lora.progress import Progress, Relay
from asu_lora.reporting.tables import markdown_table

BEGINNING = "Reading settings and rows"  # what comes before the first stage
SKIPPED, WARM, TRACED = 2, 1, 3  # training steps: compile kernels, warm the profiler up, are traced
TRACE, TABLE, FIGURES = "trace.json", "profile.md", "profile.json"


class StageClock(Relay):
    """Passes everything on, and notes how long each stage took; stages of one name are added up."""

    def __init__(self, progress: Progress):
        super().__init__(progress)
        self.seconds: dict[str, float] = {}
        self.name, self.began = BEGINNING, time.monotonic()

    def stage(self, name: str, total: int | None = None) -> None:
        self._end(name)
        super().stage(name, total)

    def close(self) -> None:
        self.progress.close()

    def finish(self) -> None:
        """The run has ended: the last stage counts up to now."""
        self._end(self.name)

    def _end(self, next_name: str) -> None:
        now = time.monotonic()
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + now - self.began
        self.name, self.began = next_name, now

    def table(self) -> str:
        """Stages in their order, seconds and shares, as Markdown."""
        whole = sum(self.seconds.values())
        rows = [[name, f"{taken:.1f}", f"{100 * taken / whole:.1f} %"] for name, taken in self.seconds.items()]
        return markdown_table(("part", "seconds", "share"), [*rows, ["all", f"{whole:.1f}", "100 %"]])


class StepTrace(TrainerCallback):
    """Traces a few training steps of the run's first phase with torch.profiler."""

    def __init__(self, file: Path):
        self.file = file
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        self.profiler = profile(
            activities=activities,
            schedule=schedule(wait=SKIPPED, warmup=WARM, active=TRACED, repeat=1),
            on_trace_ready=lambda found: found.export_chrome_trace(str(file)),
        )
        self.state = "before"

    def on_train_begin(self, args, state, control, **kwargs):
        if self.state == "before":
            self.profiler.start()
            self.state = "running"

    def on_step_end(self, args, state, control, **kwargs):
        if self.state == "running":
            self.profiler.step()

    def on_train_end(self, args, state, control, **kwargs):
        self.stop()

    def stop(self) -> None:
        """Stop tracing, wherever the run has got to."""
        if self.state == "running":
            self.profiler.stop()
        self.state = "after"


@contextmanager
def profiled(folder: str | Path | None, progress: Progress | None) -> Iterator[tuple[Progress, list[TrainerCallback]]]:
    """Inside, a run that is given the listener and the callbacks is measured; then the folder has table and trace.

    A run of fewer than six steps has no trace. Without a folder nothing is measured.

    Raises:
        StoreError: the disk refuses.
    """
    progress = progress or Progress()
    if folder is None:
        yield progress, []
        return
    folder = Path(folder)
    check_writable(folder)
    clock, trace = StageClock(progress), StepTrace(folder / TRACE)
    try:
        yield clock, [trace]
    finally:
        trace.stop()
        clock.finish()
        with disk_errors(folder, "folder"):
            figures = {"seconds": clock.seconds, "all": sum(clock.seconds.values())}
            write_files(folder, {TABLE: clock.table(), FIGURES: json.dumps(figures, indent=1) + "\n"})
