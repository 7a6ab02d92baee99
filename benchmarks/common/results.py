"""Where the benchmarks write, and how: pages for people in docs/results, their figures as JSON in its folder data."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
NOTES = "\n## Notes\n"


def read_data(name: str, empty: Any, folder: Path = RESULTS) -> Any:
    """What ``data/name.json`` holds, or ``empty`` before the first run."""
    file = folder / "data" / f"{name}.json"
    return json.loads(file.read_text()) if file.is_file() else empty


def write_data(name: str, found: Any, folder: Path = RESULTS) -> None:
    """Write ``data/name.json``."""
    file = folder / "data" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")


def write_table(name: str, text: str, folder: Path = RESULTS) -> None:
    """Write ``name``.md anew, but for the section "Notes" at its end: machine, date, what the table can't say."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.md"
    _, heading, notes = (file.read_text() if file.is_file() else "").partition(NOTES)
    file.write_text(text.rstrip("\n") + "\n" + heading + notes)
