"""Rows as other libraries hold them, into plain ones: pandas' DataFrame, its NaN, numpy's arrays."""

import math
from collections.abc import Iterable, Mapping
from typing import Any


def plain_rows(rows: Iterable[Any]) -> Iterable[Any]:
    """The rows of a DataFrame, which by itself yields its columns' names; of all else what it yields."""
    frame: Any = rows
    return frame.to_dict("records") if hasattr(rows, "iterrows") else rows


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same row with every cell as JSON would have it."""
    return {name: _plain(cell) for name, cell in row.items()}


def _plain(cell: Any) -> Any:
    """NaN is pandas' cell where nothing stands."""
    cell = cell.tolist() if hasattr(cell, "tolist") else cell
    return None if isinstance(cell, float) and math.isnan(cell) else cell
