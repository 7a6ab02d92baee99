"""What the benchmarks with scores of their own share: reading a split, and the result."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from transformers import PretrainedConfig

from asu_lora.data.reading import read_rows
from asu_lora.errors import DataError
from asu_lora.evaluation.intervals import with_interval
from asu_lora.evaluation.result import Evaluation
from asu_lora.evaluation.score import Interval, Score, one_value
from asu_lora.models.adapter_stack import Stack
from asu_lora.models.decoder import base_model

SUFFIXES = (".json", ".jsonl", ".parquet")
LONGEST = 4096  # tokens of a text in one window


class BenchmarkEvaluation(Evaluation):
    """An evaluation whose scores are the benchmark's own (``more``), not MU and FE."""

    def scores(self) -> dict[str, Score]:
        return dict(self.more)

    def score_intervals(self) -> dict[str, Interval]:
        return {}  # its scores bring their own


def mean_score(values: Sequence[float], lacks: str) -> Score:
    """The mean of a set's rows with its interval, or missing for want of ``lacks``."""
    return with_interval(fmean, values) if values else one_value(None, lacks)


def positions(stack: Stack) -> int:
    """How many tokens the base can attend to; LONGEST where its config names no limit."""
    config = cast(PretrainedConfig, base_model(stack.model).config)
    return getattr(config.get_text_config(), "max_position_embeddings", None) or LONGEST


def read_split(data: str | Path, config: str, split: str) -> list[dict[str, Any]] | None:
    """The rows of one split, from a folder or a hub dataset; None where a folder has no file of it.

    Args:
        data: a folder with ``config/split.json`` (or ``.jsonl``, ``.parquet``, or the hub's
            ``split-00000-of-00001.parquet``), or a hub id.

    Raises:
        DataError: no such folder, nothing at the hub, or a broken file.
    """
    folder = Path(data)
    if folder.is_dir():
        files = [path for suffix in SUFFIXES if (path := folder / config / f"{split}{suffix}").is_file()]
        files = files[:1] or sorted((folder / config).glob(f"{split}-*-of-*.parquet"))
        return [row for path in files for row in read_texts(path)] if files else None
    if str(data).startswith((".", os.sep, "~")) or str(data).count("/") != 1:
        raise DataError(f"There is no folder {data}.")
    return read_rows(f"{data}:{config}", split)


def read_texts(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; a JSON list of plain strings, as MUSE's own code keeps passages, gives ``text`` rows."""
    if path.suffix == ".json":
        try:
            found = json.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, OSError):
            found = None  # one object a line, or broken: read_rows says which
        if isinstance(found, list) and found and all(isinstance(entry, str) for entry in found):
            return [{"text": entry} for entry in found]
    return read_rows(path)


def texts(rows: Sequence[dict[str, Any]], column: str, what: str) -> list[str]:
    """One column, each a text.

    Raises:
        DataError: a row lacks it, or has something else there.
    """
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get(column), str) or not row[column].strip():
            raise DataError(
                f"{what}, row {number}: '{column}' should be a text; the columns found are "
                f"{', '.join(map(repr, row)) or 'none'}."
            )
    return [row[column] for row in rows]
