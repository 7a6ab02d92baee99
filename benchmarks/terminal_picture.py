"""The demonstration as an animated picture for the first page: recorded from a real run, drawn from the recording.

    python benchmarks/terminal_picture.py record   # runs 'asu-lora demo' (minutes) into docs/results/data/demo_run.txt
    python benchmarks/terminal_picture.py draw     # docs/demo.svg out of it

rich draws the terminal; what is added here is when each line appears. A line that is left out is left out whole, and a
line of dots stands for it: nothing of the output is reworded.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECORDING = ROOT / "docs" / "results" / "data" / "demo_run.txt"
PICTURE = ROOT / "docs" / "demo.svg"
WIDTH = 88  # columns
# Parts of the output that are shown, by the titles of its tables, and how many questions of each.
SHOWN = {"Held-out paraphrases": 2, "Control questions": 2, "Facts yielded": None, "Adapter 'harry-potter'": None}
AFTER_COMMAND, PER_LINE, PER_TABLE = 1.2, 0.09, 1.6  # seconds


def record() -> None:
    """Run the demonstration in a fresh folder, as wide as the picture, and keep what it prints on stdout."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "asu_lora", "demo"],
            cwd=folder,
            env={**os.environ, "COLUMNS": str(WIDTH)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        RECORDING.write_text(done.stdout.replace(folder, ""), encoding="utf-8")


def parts(text: str) -> list[list[str]]:
    """The shown tables, each a list of lines with its title first."""
    lines, found = text.splitlines(), []
    for title, rows in SHOWN.items():
        start = next(number for number, line in enumerate(lines) if line.strip() == title)
        end = next(number for number in range(start, len(lines)) if lines[number].startswith("└"))
        table = [line.rstrip() for line in lines[start : end + 1]]
        found.append(table if rows is None else _first_rows(table, rows))
    return found


def _first_rows(table: list[str], rows: int) -> list[str]:
    """A table's head and first questions: a question begins where its first cell's line follows a finished one."""
    head = next(number for number, line in enumerate(table) if line.startswith("┡")) + 1
    breaks = [number for number in range(head, len(table)) if re.match(r"^[├└]", table[number])]
    if len(breaks) < rows:
        return table
    end = breaks[rows - 1]
    return [*table[:end], "│ …", table[-1]]


def draw() -> None:
    """The picture: every line appears at its time and stays."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True, color_system="truecolor")
    times, at = [], AFTER_COMMAND
    console.print(Text.assemble(("$ ", "bold green"), ("make demo", "bold")))
    times.append(0.0)
    for table in parts(RECORDING.read_text(encoding="utf-8")):
        at += PER_TABLE
        for number, line in enumerate(table):
            console.print(Text(line, style="bold" if number == 0 else ""), no_wrap=True, crop=True)
            times.append(at)
            at += PER_LINE
    svg = console.export_svg(title="SmolLM2-135M forgets Harry Potter", unique_id="demo")
    PICTURE.write_text(animated(svg, times), encoding="utf-8")


def animated(svg: str, times: list[float]) -> str:
    """rich's picture with a class a line, and a style that shows each at its time."""
    style = "\n".join(
        [
            "@keyframes appear { to { opacity: 1 } }",
            ".line { opacity: 0; animation: appear 0.2s linear forwards }",
            "@media (prefers-reduced-motion: reduce) { .line { opacity: 1; animation: none } }",
            *(f".line-{number} {{ animation-delay: {at:.2f}s }}" for number, at in enumerate(times)),
        ]
    )
    svg = svg.replace("</style>", f"{style}\n</style>", 1)
    return re.sub(
        r'<text class="(\S+)"([^>]*clip-path="url\(#demo-line-(\d+)\)")',
        lambda found: f'<text class="{found[1]} line line-{found[3]}"{found[2]}',
        svg,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "draw"))
    {"record": record, "draw": draw}[parser.parse_args().what]()
