"""Rows as other libraries hold them, into plain ones: pandas' DataFrame, its NaN, numpy's arrays."""

import math
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

from asu_lora.errors import DataError


def plain_rows(rows: Iterable[Any]) -> Iterable[Any]:
    """The rows of a DataFrame, which by itself yields its columns' names; of all else what it yields.

    Raises:
        DataError: they are no rows but a path, nothing or a thing that yields none.
    """
    if isinstance(rows, str | PathLike) or not isinstance(rows, Iterable):
        raise DataError.plain(
            f"Rows in memory are expected, a list of dicts, say, and this is a {type(rows).__name__}: "
            "ForgetRequest.from_files reads a file."
        )
    frame: Any = rows
    return frame.to_dict("records") if hasattr(rows, "iterrows") else rows


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same row with every cell as JSON would have it."""
    return {name: _plain(cell) for name, cell in row.items()}


def _plain(cell: Any) -> Any:
    """NaN is pandas' cell where nothing stands."""
    cell = cell.tolist() if hasattr(cell, "tolist") else cell
    return None if isinstance(cell, float) and math.isnan(cell) else cell
