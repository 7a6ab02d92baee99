"""Where the benchmarks write, and how: tables are made anew, what a person wrote beneath them stays."""

from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
NOTES = "\n## Notes\n"


def write_table(name: str, text: str, folder: Path = RESULTS) -> None:
    """Write ``name``.md anew, but for the section "Notes" at its end: machine, date, what the table can't say."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.md"
    _, heading, notes = (file.read_text() if file.is_file() else "").partition(NOTES)
    file.write_text(text.rstrip("\n") + "\n" + heading + notes)
