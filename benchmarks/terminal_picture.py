"""The picture of the first page: the demonstration in a terminal, drawn from what a real run printed.

    python benchmarks/terminal_picture.py record   # runs 'asu-lora demo', some minutes
    python benchmarks/terminal_picture.py draw     # docs/demo.svg

The recording is docs/results/data/demo_run.txt. rich draws the terminal; what is added here is when each line appears.
Nothing of the output is reworded; where lines of a table are left out, dots stand for them.
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
# The tables that are shown, by their titles, and how many lines of each.
SHOWN = {"Held-out paraphrases": 9, "Control questions": 7, "Facts yielded": None, "Adapter 'harry-potter'": None}
AFTER_COMMAND, PER_LINE, AFTER_TABLE = 1.0, 0.06, 1.8  # seconds


def record() -> None:
    """Run the demonstration in a fresh folder, as wide as the picture; keep what it prints on stdout."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "asu_lora", "demo"],
            cwd=folder,
            env={**os.environ, "COLUMNS": str(WIDTH)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    RECORDING.write_text(done.stdout, encoding="utf-8")


def tables(text: str) -> list[list[str]]:
    """The shown tables, each a list of lines with its title first."""
    lines, found = [line.rstrip() for line in text.splitlines()], []
    for title, most in SHOWN.items():
        start = lines.index(title)
        end = next(number for number in range(start, len(lines)) if lines[number].startswith("└"))
        head = next(number for number in range(start, end) if lines[number].startswith("┡")) + 1
        if most is None or end - head <= most:
            found.append(lines[start : end + 1])
        else:
            found.append([*lines[start : head + most], "│ ...", lines[end]])
    return found


def draw() -> None:
    """The picture: every line appears at its time and stays."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.assemble(("$ ", "bold green"), ("make demo", "bold")))
    times, at = [0.0], AFTER_COMMAND
    for table in tables(RECORDING.read_text(encoding="utf-8")):
        for number, line in enumerate(table):
            console.print(Text(line, style="" if number else "bold"), no_wrap=True, crop=True)
            times.append(at)
            at += PER_LINE
        at += AFTER_TABLE
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
        r'<text class="([^"]+)"([^>]*clip-path="url\(#demo-line-(\d+)\)")',
        lambda found: f'<text class="{found[1]} line line-{found[3]}"{found[2]}',
        svg,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "draw"))
    {"record": record, "draw": draw}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
