"""Requests in the order they came in, each with what may still be kept beside it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asu_lora.data.examples import Example, examples_from_rows
from asu_lora.data.reading import FILE_SUFFIXES, read_rows
from asu_lora.data.request import GENERAL, ForgetRequest, default_name, general_retain, read_examples
from asu_lora.errors import DataError


@dataclass(frozen=True)
class Step:
    """One request of a history.

    Attributes:
        number: from 1.
        name: what its adapter is called: ``001-ticket-4711``.
        request: its forget rows, and the retain rows that no request has named up to here.
    """

    number: int
    name: str
    request: ForgetRequest

    @property
    def number_text(self) -> str:
        """The number as it stands in the name: ``001``."""
        return self.name.partition("-")[0]


def read_steps(
    sources: Sequence[str | Path], retain: str | Path | None = None, by: str | None = None, most: int | None = None
) -> list[Step]:
    """Read a history of requests.

    Args:
        sources: files, and folders whose files come in the order of their names (2 before 10).
        retain: what must be kept; the built-in general questions by default. A row whose question a request asks
            is left out from that request on: it can't be forgotten and kept, and it never comes back.
        by: split every file by this column: one request for each value, in the order the values first appear.
        most: only the first requests.

    Raises:
        DataError: no files, a file that can't be read, or one without the column.
    """
    parts = [part for source in sources for file in _files(source) for part in _split(file, by)][:most]
    if not parts:
        raise DataError("There are no requests: name at least one file, or a folder with files in it.")
    kept = general_retain() if retain is None else read_examples(retain)
    source = GENERAL if retain is None else "file"
    width, steps = max(3, len(str(len(parts)))), []  # as wide as it will be when requests have been added
    for number, (name, examples) in enumerate(parts, start=1):
        named = {asked(example) for example in examples}
        kept = [example for example in kept if asked(example) not in named]
        steps.append(
            Step(number, f"{number:0{width}d}-{name}"[:100], ForgetRequest(tuple(examples), tuple(kept), source, name))
        )
    return steps


def asked(example: Example) -> tuple[str, ...]:
    """What an example asks, whatever its answer; a passage is its own question."""
    return example.key() if example.is_passage else example.key()[:-1]


def _files(source: str | Path) -> Sequence[str | Path]:
    folder = Path(source)
    if not folder.is_dir():
        return [source]
    found = [path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in FILE_SUFFIXES]
    if not found:
        raise DataError(f"The folder {source} holds no requests: files end in {', '.join(FILE_SUFFIXES)}.")
    return sorted(
        found,
        key=lambda path: [
            (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)
        ],
    )


def _split(source: str | Path, by: str | None) -> list[tuple[str, list[Example]]]:
    """The requests of one file: (name, examples)."""
    rows, name = read_rows(source), default_name(source)
    if by is None:
        return [(name, examples_from_rows(rows, str(source)))]
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(rows, start=1):
        if by not in row:
            raise DataError(
                f"{source}, row {number} has no column '{by}' to split the requests by; it has "
                f"{', '.join(list(row)[:12])}."
            )
        groups.setdefault(str(row[by]), []).append(number)
    # the value itself may be a person's name: it is no part of a file's name
    return [
        (f"{name}-{position}", examples_from_rows([rows[number - 1] for number in numbers], str(source), numbers))
        for position, numbers in enumerate(groups.values(), start=1)
    ]
