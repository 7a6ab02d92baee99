"""The files a comparison ends in: table as Markdown and CSV, everything as JSON, the figure."""

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asu_lora.files import disk_errors, write_files
from asu_lora.reporting.plot_style import save_figure
from asu_lora.reporting.tables import percent
from asu_lora.studies.compare.compare import Comparison
from asu_lora.studies.compare.figure import compare_figure
from asu_lora.studies.compare.results import SCORES
from asu_lora.studies.compare.table import csv_text, paper_table
from asu_lora.version import library_versions

STEM = "comparison"


def as_json(comparison: Comparison, command: str | None = None) -> dict[str, Any]:
    """Everything: what was compared, each run, which is kept.

    Args:
        command: how to do it again; it must hold no text of the request, no file's name, no value of a column.
    """
    kept = comparison.best
    return {
        "command": command,
        "settings": comparison.shared,
        "counts": comparison.counts,
        "notes": list(comparison.notes),
        "versions": library_versions(),
        "machine": {"system": platform.platform(), "processor": platform.machine()},
        "seconds": round(comparison.seconds, 1),
        "kept": [result.title for result in kept],
        "runs": [{**asdict(result), "kept": result in kept} for result in comparison.results],
    }


def as_markdown(comparison: Comparison, command: str | None = None) -> str:
    """Table, all learning rates where several were tried, failures, settings."""
    kept, everything = comparison.best, comparison.results
    text = [
        "# Comparison of unlearning methods\n",
        f"`{command}`\n" if command else "",
        paper_table(kept).markdown(),
        "Scores, ROUGE-L recall, probability and gibberish rate (of all answers) in percent; best **bold**, second "
        "<u>underlined</u>, the base apart.\n",
    ]
    if len(kept) < len(everything):
        text += [
            "## All learning rates\n",
            "Of each method the one with the highest Avg stands above; it was chosen "
            "on the questions that are scored.\n",
            paper_table(everything).markdown(),
        ]
    if failed := [result for result in everything if not result.done]:
        text += ["## Failed\n", *(f"- {result.title}: {result.failure}" for result in failed), ""]
    if taus := {result.title: result.training["tau"] for result in kept if result.training.get("tau")}:
        text.append("tau: " + ", ".join(f"{title}: {tau:g}" for title, tau in taus.items()) + ".\n")
    text += [
        "## Made with\n",
        f"{comparison.seconds / 60:.1f} minutes of training and evaluation in all.\n",
        *(f"- {key}: {value}" for key, value in {**comparison.counts, **comparison.shared}.items()),
        *(f"- {name}: {version}" for name, version in library_versions().items()),
        *(f"- {note}" for note in comparison.notes),
    ]
    return "\n".join(text) + "\n"


def write_report(comparison: Comparison, command: str | None = None) -> list[Path]:
    """Write all of them into the comparison's folder.

    Args:
        command: see :func:`as_json`.

    Raises:
        StoreError: the disk refuses.
    """
    kept = comparison.best
    with disk_errors(comparison.out, "folder"):
        written = write_files(
            comparison.out,
            {
                f"{STEM}.md": as_markdown(comparison, command),
                f"{STEM}.csv": csv_text(comparison.results, kept),
                f"{STEM}.json": json.dumps(as_json(comparison, command), indent=1, ensure_ascii=False) + "\n",
            },
        )
        points = [result for result in kept if result.done and None not in map(result.score, SCORES)]
        if points:
            written += save_figure(compare_figure(points), comparison.out / STEM)
    return written


def best_line(comparison: Comparison) -> str | None:
    """The best method in a sentence."""
    scored = [
        (average, result)
        for result in comparison.best
        if result.lr is not None and (average := result.score("Avg")) is not None
    ]
    if not scored:
        return None
    average, best = max(scored, key=lambda entry: entry[0])
    return (
        f"Highest {best.label('Avg')}: {best.title.replace(', ', ' at ')} with {percent(average)} "
        f"(MU {percent(best.score('MU'))}, FE {percent(best.score('FE'))})."
    )
