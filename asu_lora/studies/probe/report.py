"""A probe as JSON and as a table."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asu_lora.files import disk_errors, write_files
from asu_lora.reporting.tables import csv_table
from asu_lora.studies.probe.grid import LayerGroup
from asu_lora.studies.probe.points import CLASSES, ProbePoint
from asu_lora.studies.probe.probe import Probe

UNITS = {
    "nll": "nats a token, mean over a class's tokens",
    "entropy": "nats, mean over heads, the group's layers and a class's tokens",
    "rise": "nats a token above the base's NLL, mean over the tokens that the base knows",
    "rouge, gibberish_rate, empty_rate": "shares from 0 to 1",
}


def as_dict(probe: Probe) -> dict[str, Any]:
    """Everything that was measured; no text of the request is in it, of a base's folder only its last part."""
    chosen = probe.recommended
    return {
        "base": Path(probe.base).name,
        "precision": probe.precision,
        "rows": probe.rows,
        "answers": probe.answers,
        "question_words": probe.question_words,
        "tokens": probe.tokens,
        "recommended": {
            "layers": chosen.layers,
            "tau": chosen.tau,
            "auto": chosen.auto,
            "reason": chosen.reason,
            "own_answers": chosen.teacher and asdict(chosen.teacher),
            "auto_own_answers": chosen.auto_teacher and asdict(chosen.auto_teacher),
            "curve": [asdict(point) for point in chosen.curve],
        },
        "groups": [
            {"name": group.name, "layers": list(group.layers), "points": [_values(point) for point in points]}
            for group, points in probe.curves
        ],
        "units": UNITS,
        "notes": probe.notes,
    }


def as_rows(probe: Probe) -> list[dict[str, Any]]:
    """One row a group and tau."""
    return [
        {"group": group.name, "layers": _indices(group), **_values(point)}
        for group, points in probe.curves
        for point in points
    ]


def write_report(probe: Probe, folder: str | Path) -> list[Path]:
    """Write ``probe.json``, ``probe.csv`` and the figure (SVG, PDF, PNG) into a folder.

    Raises:
        StoreError: the disk refuses.
    """
    from asu_lora.reporting.plot_style import save_figure
    from asu_lora.studies.probe.figure import probe_figure

    folder, rows = Path(folder), as_rows(probe)
    with disk_errors(folder, "folder"):
        written = write_files(
            folder,
            {
                "probe.json": json.dumps(as_dict(probe), indent=2) + "\n",
                "probe.csv": csv_table(list(rows[0]), [list(row.values()) for row in rows]),
            },
        )
        return written + save_figure(probe_figure(probe), folder / "probe")


def _values(point: ProbePoint) -> dict[str, Any]:
    values: dict[str, Any] = {"tau": point.tau}
    for measure, means in (("nll", point.nll), ("entropy", point.entropy)):
        values |= {f"{measure}_{name}": means[name] for name in CLASSES}
    values |= {"factual_rise": point.factual_rise, "function_rise": point.function_rise}
    values |= asdict(point.teacher) if point.teacher else dict.fromkeys(("rouge", "gibberish_rate", "empty_rate"))
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}


def _indices(group: LayerGroup) -> str:
    return " ".join(map(str, group.layers))
