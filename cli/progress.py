"""Progress of the library on a terminal: a bar a stage, its values and the time left."""

import time
from typing import Any

from asu_lora.cli.console import encodes, stderr
from asu_lora.progress import Progress

DOTS = "\u2800\u28ff"  # the first and the last of what rich's spinner is made of


class Bars(Progress):
    """A bar for the stage that runs, with its values, speed and time left; a line for each that has ended.

    The bar fits into 80 columns. Where stderr is no terminal: a line at each stage's start and every 10 s.
    """

    def __init__(self) -> None:
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.console = stderr()
        self.bars = RichProgress(
            SpinnerColumn("dots" if encodes(self.console.file, DOTS) else "line"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[values]}", style="cyan"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self.console,
            transient=True,
        )
        self.task: Any = None
        self.name, self.done, self.began, self.said = "", 0, 0.0, 0.0
        self.total: int | None = None
        self.values: dict[str, float] = {}

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def stage(self, name: str, total: int | None = None) -> None:
        self._finish()
        self.name, self.total, self.done, self.values, self.began = name, total, 0, {}, time.monotonic()
        if self.console.is_terminal:
            self.bars.start()
            self.task = self.bars.add_task(name, total=total, values="", speed="", count="")
        else:
            self._line(f"{name} ..." + (f" ({total})" if total else ""))
            self.said = time.monotonic()

    def advance(self, amount: int = 1, **values: Any) -> None:
        self.done += amount
        self.values |= values
        text = " ".join(f"{key.removesuffix('_loss')} {value:.2g}" for key, value in self.values.items())
        if self.console.is_terminal:
            if self.task is not None:
                speed = self.done / max(time.monotonic() - self.began, 1e-3)
                self.bars.update(
                    self.task,
                    advance=amount,
                    values=text,
                    speed=f"{speed:.2g}/s" if speed < 100 else "",
                    count=f"{self.done}/{self.total}" if self.total else str(self.done),
                )
        elif time.monotonic() - self.said > 10:
            self._line(f"  {self.done}" + (f"/{self.total}" if self.total else "") + (f"  {text}" if text else ""))
            self.said = time.monotonic()

    def note(self, text: str) -> None:
        self._line(text[:1].upper() + text[1:], style="dim")

    def close(self) -> None:
        self._finish()
        if self.console.is_terminal:
            self.bars.stop()

    def _line(self, text: str, style: str | None = None) -> None:
        """One line as it is: not folded at 80 columns in a log, and "[x]" in it is no markup."""
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    def _finish(self) -> None:
        if self.task is not None:
            self.bars.remove_task(self.task)
            self.task = None
            count = f" ({self.done})" if self.total else ""
            self._line(f"  {self.name}{count}, {time.monotonic() - self.began:.0f} s", style="dim")
