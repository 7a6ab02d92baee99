"""A history's scores as CSV, JSON and Markdown; every file is whole at any moment."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from asu_lora.files import disk_errors, write_files
from asu_lora.reporting.tables import csv_table, markdown_table, number
from asu_lora.studies.continual.figure import save_curves
from asu_lora.studies.continual.step_records import StepRecord
from asu_lora.studies.continual.take_back import TakenBack

# key, heading
COLUMNS = (
    ("average", "Avg"),
    ("utility", "MU"),
    ("efficacy", "FE, this request"),
    ("efficacy_so_far", "FE so far"),
    ("efficacy_first", "FE, step 1 again"),
    ("gibberish", "gibberish %"),
    ("gibberish_retain", "gibberish %, kept"),
)
NAME = "continual"

Records = Mapping[str, Sequence[StepRecord]]


def table(records: Records) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: a row a method and step."""
    headings = [
        "method",
        "step",
        *(heading for _, heading in COLUMNS),
        "training s",
        "scoring s",
        "adapter MB",
        "active",
        "ranks",
    ]
    rows = []
    for method, steps in records.items():
        for record in steps:
            scores = [number(record.scores.get(key), 1) for key, _ in COLUMNS]
            rows.append(
                [
                    method,
                    str(record.number) if record.number else "base",
                    *scores,
                    f"{record.seconds:.0f}",
                    f"{record.evaluation_seconds:.0f}",
                    f"{record.adapter_bytes / 1e6:.2f}",
                    str(len(record.active)),
                    str(record.active_rank),
                ]
            )
    return headings, rows


def write_report(
    folder: str | Path, records: Records, about: Mapping[str, Any], taken: Mapping[str, TakenBack] | None = None
) -> list[Path]:
    """Write ``continual.csv``, ``.json``, ``.md`` and the figure (where there are scores) into ``folder``.

    Args:
        records: the steps of every method.
        about: what to say of the run: settings, versions, notes. It must hold no text of a request.
        taken: a request of each method that was taken back.
    """
    folder, taken = Path(folder), taken or {}
    everything = {
        "about": about,
        "methods": {method: [asdict(record) for record in steps] for method, steps in records.items()},
        "taken_back": {method: asdict(found) for method, found in taken.items()},
    }
    with disk_errors(folder, "folder"):
        written = write_files(
            folder,
            {
                f"{NAME}.csv": _csv(records),
                f"{NAME}.md": _markdown(records, about, taken),
                f"{NAME}.json": json.dumps(everything, indent=1) + "\n",
            },
        )
        scored = {method: steps for method, steps in records.items() if any(step.scores for step in steps)}
        return written + save_curves(scored, folder / NAME)


def taken_rows(found: TakenBack) -> list[tuple[str, float | None, float | None]]:
    """(what, before, after) of a request that was taken back."""
    return [
        ("MU", *found.utility),
        *(
            (f"FE of step {number}" + (" (taken back)" if number == found.number else ""), *scores)
            for number, scores in found.efficacy.items()
        ),
    ]


def _csv(records: Records) -> str:
    keys = [
        "number",
        "adapter",
        *(key for key, _ in COLUMNS),
        "seconds",
        "evaluation_seconds",
        "adapter_bytes",
        "active_bytes",
        "active_rank",
        "fold",
    ]
    rows = []
    for method, steps in records.items():
        for record in steps:
            values = asdict(record) | record.scores
            rows.append(
                [
                    method,
                    *(values.get(key) for key in keys),
                    " ".join(f"{name}:{weight:g}" for name, weight in record.active),
                ]
            )
    return csv_table(["method", *keys, "active"], rows)


def _markdown(records: Records, about: Mapping[str, Any], taken: Mapping[str, TakenBack]) -> str:
    headings, rows = table(records)
    lines = [
        "# Requests one after another",
        "",
        "Scores in percent. Avg is the mean of MU and the FE of the step's own request; FE so far is over "
        "everything forgotten up to that step.",
        "",
        markdown_table(headings, rows),
    ]
    for method, steps in records.items():
        scored = [record for record in steps if record.number and record.scores]
        if len(scored) > 1:
            first, last = scored[0], scored[-1]
            lines.append(
                f"{method}: from step {first.number} to step {last.number}, Avg "
                f"{_change(first.scores['average'], last.scores['average'])}, FE of step 1 "
                f"{_change(first.scores['efficacy_first'], last.scores['efficacy_first'])}."
            )
            lines.append("")
        lines += other_questions(method, steps)
    for method, found in taken.items():
        lines += [
            f"## {method}: step {found.number} taken back",
            "",
            markdown_table(
                ("", "before", "after"),
                [(what, number(before, 1), number(after, 1)) for what, before, after in taken_rows(found)],
            ),
        ]
    labels = sorted({label for steps in records.values() for r in steps for label in r.scores.get("labels", ())})
    lines += [f"Scores: {', '.join(labels)}.", ""] if labels else []
    lines += [f"- {key.replace('_', ' ')}: {_said(value)}" for key, value in about.items()]
    return "\n".join(lines) + "\n"


def other_questions(method: str, steps: Sequence[StepRecord]) -> list[str]:
    """Where the retain questions became others: a request that was added later asks some of them."""
    known = [record for record in steps if record.kept is not None]
    at = [later.number for one, later in pairwise(known) if one.kept != later.kept]
    if not at:
        return []
    told = ", ".join(map(str, at))
    return [f"{method}: MU and Avg from step {told} on are of other retain questions than those before it.", ""]


def _change(first: float | None, last: float | None) -> str:
    if first is None or last is None:
        return "is missing"
    return f"{last - first:+.1f} points ({first:.1f} to {last:.1f})"


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
