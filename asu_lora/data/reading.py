"""Rows out of files: JSON lines, JSON, CSV, Parquet, or a dataset on the hub.

Local files are read in place. ``datasets.load_dataset`` would leave an Arrow copy of them in the user's
cache, and a forget request is personal data: it must not outlive its file. Hub datasets go through
``datasets`` as anybody would load them.
"""

import csv
import json
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

from asu_lora.errors import DataError, first_line, quoted
from asu_lora.hub import hub_answers

FILE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_NO_OBJECT = 'expected an object like {"question": ..., "answer": ...}, found'
_OURS = frozenset(("question", "answer", "text"))  # columns that tell what stands between a table's fields
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}  # of what may stand between a table's fields


def read_rows(source: str | Path, split: str = "train") -> list[dict[str, Any]]:
    """Read the rows of a file, or of a hub dataset given as ``owner/name`` or ``owner/name:config``.

    Args:
        source: a path, or a dataset id.
        split: the split of a hub dataset; files have none.

    Raises:
        DataError: the file is missing, empty or broken (JSON lines with the number of the line).
    """
    if not isinstance(source, str | PathLike):
        raise DataError.plain(
            f"A file or hub dataset is given by its name, and this is a {type(source).__name__}: "
            "ForgetRequest.from_rows takes rows."
        )
    path = Path(source)
    try:
        folder, file = path.is_dir(), path.is_file()
    except OSError as error:  # a name too long, a folder that may not be looked into
        raise DataError(f"{str(source)[:200]} can't be read: {error.strerror or error}.") from error
    if folder:
        raise DataError(f"{source} is a folder: name a file in it (one of {', '.join(FILE_SUFFIXES)}).")
    if file:
        rows = _read_file(path)
    elif path.suffix.lower() in FILE_SUFFIXES or str(source).count("/") != 1 or str(source).startswith((".", "/")):
        raise DataError(f"There is no file {source}: check the path, or name a hub dataset as owner/name.")
    else:
        rows = _read_hub(str(source), split)
    if not rows:
        raise DataError.about(source, " holds no rows: a request needs at least one question and answer, or one text.")
    return rows


def _read_file(path: Path) -> list[dict[str, Any]]:
    suffix = path.suffix.lower()
    try:
        if suffix in (".jsonl", ".ndjson", ".json"):
            return _read_json(path)
        if suffix in (".csv", ".tsv"):
            return _read_csv(path, "\t" if suffix == ".tsv" else ",")
        if suffix == ".parquet":
            return _read_parquet(path)
    except UnicodeDecodeError as error:
        raise DataError.about(path, f" is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error
    except csv.Error as error:
        raise DataError.about(path, f" is not a readable CSV file: {error}.") from error
    except OSError as error:
        raise DataError.about(path, f" can't be read: {error.strerror or type(error).__name__}.") from error
    except _NamedTwice as error:
        textless = "The file can't be read: an object in it names a field twice."
        raise DataError(f"{path} can't be read: {error}", textless, path) from error
    except ValueError as error:  # a number of thousands of digits in JSON
        raise DataError.about(path, f" can't be read: {first_line(error)}") from error
    except RecursionError as error:
        raise DataError.about(path, " is nested too deeply to be a list of rows.") from error
    raise DataError.about(path, f" has no known ending: use one of {', '.join(FILE_SUFFIXES)}.")


def _read_csv(path: Path, delimiter: str) -> list[dict[str, Any]]:
    rows, empty, limit = [], 0, csv.field_size_limit(2**31 - 1)  # a passage may be longer than the 128 KiB csv allows
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter, before = _delimiter(file, delimiter)
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            names = list(reader.fieldnames or ())
            _refuse_twice(path, names)
            for row in reader:
                if not "".join(value for field in row.values() for value in field or ()).strip():
                    empty += 1  # cells of a spreadsheet that were emptied; a blank line the reader passes over itself
                    continue
                missing = sum(value is None for value in row.values())
                if None in row or missing:  # under None stand the fields that no column was named for
                    columns = len(reader.fieldnames or ())
                    raise DataError.about(
                        path,
                        f", line {before + reader.line_num}: {columns - missing + len(row.get(None, ()))} "
                        f"fields where the first line names {columns} columns; a field with "
                        f"{_NAMES[delimiter]} in it needs double quotes.",
                    )
                rows.append(row)
    finally:
        csv.field_size_limit(limit)
    if empty and not rows:
        raise DataError.about(path, f" holds no rows but {empty} empty ones: fill in at least one.")
    return rows


def _refuse_twice(path: Path, names: Sequence[str]) -> None:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(
            f"{path} names the column '{twice}' twice: rename one of them.",
            "The file names a column twice: rename one of the two.",
            path,
        )


def _delimiter(file: TextIO, usual: str) -> tuple[str, int]:
    """What stands between the fields (the usual one, or what the first line has instead), and the lines read past.

    Spreadsheets write semicolons where the comma is the decimal sign, and may say so in a line of its own (``sep=;``).
    """
    first = file.readline()
    if told := re.fullmatch(r"sep=([,;\t])\s*", first):
        return told[1], 1
    file.seek(0)
    candidates = [usual, *(other for other in _NAMES if other != usual)]
    telling = (mark for mark in candidates if _OURS.intersection(next(csv.reader([first], delimiter=mark), ())))
    return next(telling, None) or next((mark for mark in candidates if mark in first), usual), 0


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with path.open("rb") as file:
            # Without threads: a program over before Arrow's have started is aborted on its way out.
            table = pyarrow.parquet.ParquetFile(file, pre_buffer=False)
            _refuse_twice(path, table.schema_arrow.names)
            return table.read(use_threads=False).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path} is not a readable Parquet file: {reason[:200]}", "The file is not a readable Parquet file.", path
        ) from error


def _read_json(path: Path) -> list[dict[str, Any]]:
    """A JSON array of objects, or (also under .json, as TOFU ships it) one object a line."""
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text, object_pairs_hook=_once)
        except json.JSONDecodeError as error:
            raise DataError.about(path, f", line {error.lineno}: broken JSON ({error.msg}).") from error
        _check_objects(path, rows, "row")
        return rows
    rows = []
    # not splitlines(): U+2028 and its like are legal inside a JSON string
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_once)
        except json.JSONDecodeError as error:
            if not rows and (whole := _one_object(text)) is not None:
                return [whole]
            raise DataError.about(path, f", line {number}: broken JSON ({error.msg}).") from error
        if not isinstance(row, dict):
            raise DataError.about(path, f", line {number}: {_NO_OBJECT} {type(row).__name__}.")
        rows.append(row)
    return rows


def _one_object(text: str) -> dict[str, Any] | None:
    """A file that is a single object, written over several lines; None for anything else."""
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


class _NamedTwice(ValueError):
    """A field that an object names twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose fields are named once each: of two values, one would be lost in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _NamedTwice(f"an object in it names {quoted(twice)} twice.")
    return found


def _check_objects(path: Path, rows: list[Any], unit: str) -> None:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError.about(path, f", {unit} {number}: {_NO_OBJECT} {type(row).__name__}.")


def _read_hub(name: str, split: str) -> list[dict[str, Any]]:
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and not hub_answers():
        raise DataError(
            f"There is no file {name}, and the hub, which may have a dataset of that name, can't be "
            "reached (with HF_HUB_OFFLINE=1 its cache is looked into)."
        )
    import datasets

    repository, _, config = name.partition(":")
    try:
        return list(datasets.load_dataset(repository, config or None, split=split))
    except Exception as error:  # datasets raises a dozen kinds, all of them about this one name
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"There is no file {name}, and the hub gave no dataset of that name: {reason}") from error
