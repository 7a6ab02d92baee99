"""A history's figures as CSV, JSON and Markdown; every file is whole at any moment."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asu_lora.adapters.atomic import write_atomic
from asu_lora.adapters.staging import disk_errors
from asu_lora.continual.run import StepRecord
from asu_lora.continual.taking_back import TakenBack
from asu_lora.plots.continual import save_curves

# key, heading
COLUMNS = (("average", "Avg"), ("utility", "MU"), ("efficacy", "FE, this request"), ("efficacy_so_far", "FE so far"),
           ("efficacy_first", "FE, step 1 again"), ("gibberish", "gibberish %"),
           ("gibberish_retain", "gibberish %, kept"))
NAME = "continual"

Records = Mapping[str, Sequence[StepRecord]]


def table(records: Records) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: a row a method and step."""
    headings = ["method", "step", *(heading for _, heading in COLUMNS), "training s", "scoring s", "adapter MB",
                "active", "ranks"]
    rows = []
    for method, steps in records.items():
        for record in steps:
            scores = [record.scores.get(key) for key, _ in COLUMNS]
            rows.append([method, str(record.number) if record.number else "base", *(_shown(score) for score in scores),
                         f"{record.seconds:.0f}", f"{record.evaluation_seconds:.0f}",
                         f"{record.adapter_bytes / 1e6:.2f}", str(len(record.active)), str(record.active_rank)])
    return headings, rows


def write_report(folder: str | Path, records: Records, about: Mapping[str, Any],
                 taken: Mapping[str, TakenBack] | None = None) -> list[Path]:
    """Write ``continual.csv``, ``.json``, ``.md`` and the figure (where there are scores) into ``folder``.

    Args:
        records: the steps of every method.
        about: what to say of the run: settings, versions, notes. It must hold no text of a request.
        taken: a request of each method that was taken back.
    """
    folder, taken = Path(folder), taken or {}
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        written = {f"{NAME}.csv": _csv(records), f"{NAME}.md": _markdown(records, about, taken),
                   f"{NAME}.json": json.dumps({"about": about, "methods": {
                       method: [asdict(record) for record in steps] for method, steps in records.items()},
                       "taken_back": {method: asdict(found) for method, found in taken.items()}}, indent=1) + "\n"}
        for name, text in written.items():
            write_atomic(folder / name, text)
        figures = save_curves({method: steps for method, steps in records.items() if any(s.scores for s in steps)},
                              folder / NAME)
    return [*(folder / name for name in written), *figures]


def taken_rows(found: TakenBack) -> list[tuple[str, float | None, float | None]]:
    """(what, before, after) of a request that was taken back."""
    return [("MU", *found.utility), *((f"FE of step {number}" + (" (taken back)" if number == found.number else ""),
                                       *scores) for number, scores in found.efficacy.items())]


def _csv(records: Records) -> str:
    text = io.StringIO()
    keys = ["number", "adapter", *(key for key, _ in COLUMNS), "seconds", "evaluation_seconds", "adapter_bytes",
            "active_bytes", "active_rank", "fold"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", *keys, "active"])
    for method, steps in records.items():
        for record in steps:
            values = asdict(record) | record.scores
            writer.writerow([method, *("" if values.get(key) is None else values[key] for key in keys),
                             " ".join(f"{name}:{weight:g}" for name, weight in record.active)])
    return text.getvalue()


def _markdown(records: Records, about: Mapping[str, Any], taken: Mapping[str, TakenBack]) -> str:
    headings, rows = table(records)
    lines = ["# Requests one after another", "",
             "Scores in percent. Avg is the mean of MU and the FE of the step's own request; FE so far is over "
             "everything forgotten up to that step.", "",
             "| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1),
             *("| " + " | ".join(row) + " |" for row in rows), ""]
    for method, steps in records.items():
        scored = [record for record in steps if record.number and record.scores]
        if len(scored) > 1:
            first, last = scored[0], scored[-1]
            lines.append(f"{method}: from step {first.number} to step {last.number}, Avg "
                         f"{_change(first.scores['average'], last.scores['average'])}, FE of step 1 "
                         f"{_change(first.scores['efficacy_first'], last.scores['efficacy_first'])}.")
            lines.append("")
    for method, found in taken.items():
        lines += [f"## {method}: step {found.number} taken back", "", "| | before | after |", "|---|---:|---:|",
                  *(f"| {what} | {_shown(before)} | {_shown(after)} |" for what, before, after in taken_rows(found)),
                  ""]
    labels = sorted({label for steps in records.values() for r in steps for label in r.scores.get("labels", ())})
    lines += [f"Scores: {', '.join(labels)}.", ""] if labels else []
    lines += [f"- {key.replace('_', ' ')}: {_said(value)}" for key, value in about.items()]
    return "\n".join(lines) + "\n"


def _shown(score: float | None) -> str:
    return "-" if score is None else f"{score:.1f}"


def _change(first: float | None, last: float | None) -> str:
    return "is missing" if None in (first, last) else f"{last - first:+.1f} points ({first:.1f} to {last:.1f})"


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
