"""A table of runs side by side: each figure before and after."""

from collections.abc import Sequence
from typing import Any


def before_after_table(runs: Sequence[dict[str, Any]], heads: Sequence[str], singles: Sequence[str]) -> str:
    """As Markdown, a column a run.

    Args:
        runs: with ``figures``, (before, after) by name; one that a run lacks is left empty.
        heads: of the columns.
        singles: keys of the runs whose values stand below.
    """
    lines = ["| figure | " + " | ".join(heads) + " |", "|---" * (len(runs) + 1) + "|"]
    for name in dict.fromkeys(name for run in runs for name in run["figures"]):
        pairs = [run["figures"].get(name) for run in runs]
        told = (f"{pair[0]:.3f} to {pair[1]:.3f}" if pair else "" for pair in pairs)
        lines.append(f"| {name} | " + " | ".join(told) + " |")
    for name in singles:
        lines.append(f"| {name} | " + " | ".join(str(run[name]) for run in runs) + " |")
    return "\n".join(lines) + "\n"
