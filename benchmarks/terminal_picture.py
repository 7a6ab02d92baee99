"""The picture of the first page: the tutorial's run in a terminal, drawn from what a real run printed.

    python benchmarks/terminal_picture.py record   # runs commands of docs/tutorial.md
    python benchmarks/terminal_picture.py draw     # docs/demo.svg out of it

The recording is docs/results/data/tutorial_run.txt. rich draws the terminal; what is added here is when each line
appears. Nothing of the output is reworded.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path

from common.tutorial import commands

ROOT = Path(__file__).parent.parent
RECORDING = ROOT / "docs" / "results" / "data" / "tutorial_run.txt"
PICTURE = ROOT / "docs" / "demo.svg"
WIDTH = 80  # columns
TRAINED = "asu-lora forget shakespeare.jsonl --retain keep.jsonl"
AFTER_COMMAND, AFTER_OUTPUT, PER_LINE = 0.8, 2.0, 0.05  # seconds


def record() -> None:
    """Run the commands in a fresh folder; keep each with what it prints on stdout."""
    environment = {**os.environ, "COLUMNS": str(WIDTH), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    kept = []
    with tempfile.TemporaryDirectory() as folder:
        for command in commands():
            wanted = command.startswith("cat ") or command == TRAINED
            if wanted or (command.startswith("asu-lora ask") and "--adapter" in command):
                done = subprocess.run(
                    ["bash", "-c", command], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
                )
                if not command.startswith("cat "):
                    kept.append(f"$ {command}\n{done.stdout}")
    RECORDING.write_text("".join(kept), encoding="utf-8")


def draw() -> None:
    """The picture: every line appears at its time and stays."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True, color_system="truecolor")
    times, at = [], 0.0
    for line in RECORDING.read_text(encoding="utf-8").splitlines():
        if line.startswith("$ "):
            at += AFTER_OUTPUT if times else 0.0
            text = Text.assemble(("$ ", "bold green"), (line[2:], "bold"))
        else:
            text = Text(line.rstrip())
        console.print(text, no_wrap=True, crop=True)
        times.append(at)
        at += AFTER_COMMAND if line.startswith("$ ") else PER_LINE
    svg = console.export_svg(title="SmolLM2-135M forgets Shakespeare", unique_id="demo")
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
