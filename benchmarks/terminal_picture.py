"""The picture of the first page: the demonstration in a terminal, drawn from what a real run printed.

    python benchmarks/terminal_picture.py record   # runs 'asu-lora demo', some minutes
    python benchmarks/terminal_picture.py draw     # docs/images/demo.svg

The recording is docs/results/data/demo_run.txt: all that the run printed, but for the counts of its progress. rich
draws the terminal; what is added here is when each line appears, and that the screen scrolls. Waiting is shortened, no
word is.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).resolve().parents[1]
RECORDING = ROOT / "docs" / "results" / "data" / "demo_run.txt"
PICTURE = ROOT / "docs" / "images" / "demo.svg"
COMMAND = "asu-lora demo"
WIDTH, ROWS = 96, 30  # columns, and lines that the screen holds
PER_LINE, PER_STAGE, AFTER_TABLE, AT_THE_END = 0.09, 0.35, 2.4, 6.0  # seconds
LINE_HEIGHT, ABOVE, BELOW = 24.4, 41, 18  # of rich's pictures, in pixels


def record() -> None:
    """Run the demonstration in a fresh folder, as wide as the picture; keep what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "asu_lora", *COMMAND.split()[1:]],
            cwd=folder,
            env={**os.environ, "COLUMNS": str(WIDTH), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
    counts = re.compile(r"^  \d+(/\d+)?(  .*)?$")
    lines = [line.rstrip() for line in done.stdout.splitlines() if not counts.match(line)]
    RECORDING.write_text("\n".join(lines).strip() + "\n", encoding="utf-8")


def moments(lines: list[str]) -> list[float]:
    """When each line appears, in seconds; the command is there from the beginning."""
    at, found = 1.2, [0.0]
    for line in lines[1:]:
        found.append(at)
        at += PER_STAGE if re.search(r"\.\.\.( \(\d+\))?$", line) else PER_LINE
        at += AFTER_TABLE if line.startswith("└") else 0
    return found


def draw() -> None:
    """Write the picture."""
    PICTURE.write_text(picture(RECORDING.read_text(encoding="utf-8")), encoding="utf-8")


def picture(recording: str) -> str:
    """The picture of a recording, as SVG; lines longer than the screen is wide go on in the next."""
    from rich.console import Console
    from rich.text import Text

    lines = [f"$ {COMMAND}", *(part for line in recording.splitlines() for part in wrap(line, WIDTH) or [""])]
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True, color_system="truecolor")
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        console.print(Text(line, style=style_of(line, following)), no_wrap=True, crop=True, overflow="ignore")
    svg = console.export_svg(title="SmolLM2-135M forgets Harry Potter", unique_id="demo")
    return animated(svg, moments(lines))


def style_of(line: str, following: str) -> str:
    """Bold for the command and the titles of tables, dim for what the run says of its progress."""
    if line.startswith("$ "):
        return "bold green"
    if re.search(r"\.\.\.( \(\d+\))?$", line):
        return "dim"
    return "bold" if following.startswith("┏") else ""


def animated(svg: str, times: list[float]) -> str:
    """rich's picture with a screen of fixed height, on which each line appears at its time and stays."""
    whole = times[-1] + AT_THE_END
    last = max(0, len(times) - ROWS)
    steps = [(times[at + ROWS - 1], at) for at in range(1, last + 1)]
    moves = ((100 * at / whole, -by * LINE_HEIGHT) for at, by in steps)
    scroll = "".join(f"{share:.2f}% {{ transform: translateY({up:.1f}px) }}" for share, up in moves)
    end = f"translateY({-last * LINE_HEIGHT:.1f}px)"
    style = "\n".join(
        [
            f"@keyframes scroll {{ 0% {{ transform: none }} {scroll} 100% {{ transform: {end} }} }}",
            f".demo-matrix {{ animation: scroll {whole:.2f}s step-end infinite }}",
            *(
                f"@keyframes at-{number} {{ 0% {{ opacity: 0 }} {100 * at / whole:.2f}% {{ opacity: 1 }} }}"
                f".line-{number} {{ animation: at-{number} {whole:.2f}s step-end infinite }}"
                for number, at in enumerate(times)
                if at
            ),
            "@media (prefers-reduced-motion: reduce) { .demo-matrix, [class*=line-] { animation: none }"
            f" .demo-matrix {{ transform: {end} }} }}",
        ]
    )
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # a picture in a page loads nothing
    svg = svg.replace("font-family: Fira Code, monospace", "font-family: ui-monospace, Menlo, Consolas, monospace")
    svg = svg.replace("</style>", f"{style}\n</style>", 1)
    svg = _as_high_as_the_screen(svg, ABOVE + ROWS * LINE_HEIGHT + BELOW)
    return re.sub(
        r'<text class="([^"]+)"([^>]*clip-path="url\(#demo-line-(\d+)\)")',
        lambda found: f'<text class="{found[1]} line-{found[3]}"{found[2]}',
        svg,
    )


def _as_high_as_the_screen(svg: str, height: float) -> str:
    """Cut the picture, its frame and the terminal in it."""
    svg = re.sub(r'viewBox="0 0 ([\d.]+) [\d.]+"', rf'role="img" viewBox="0 0 \1 {height + 2:.0f}"', svg, count=1)
    svg = re.sub(r'(<rect fill="#[0-9a-f]+" stroke=[^>]*?height=")[\d.]+', rf"\g<1>{height:.0f}", svg, count=1)
    clip = r'(<clipPath id="demo-clip-terminal">\s*<rect [^>]*?height=")[\d.]+'
    return re.sub(clip, rf"\g<1>{ROWS * LINE_HEIGHT:.1f}", svg, count=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "draw"))
    {"record": record, "draw": draw}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
