"""Rows to choose from: what ``--retain auto`` picks the retain set out of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import Example, examples_from_rows
from asu_lora.data.paraphrases import all_wordings
from asu_lora.data.reading import read_rows
from asu_lora.errors import DataError, SettingError

ROWS = 200  # that are kept, unless another number is asked for
BY = ("base", "encoder")


@dataclass(frozen=True)
class RetainPool:
    """A pool of rows and how many of them are to be kept.

    Attributes:
        rows: what can be kept.
        wanted: how many of them are.
        by: what says which are near: the ``base``'s own hidden states, or a sentence ``encoder``.

    Raises:
        DataError: the pool is empty.
        SettingError: fewer than one row is wanted, or ``by`` is neither.
    """

    rows: tuple[Example, ...]
    wanted: int = ROWS
    by: str = "base"

    def __post_init__(self) -> None:
        if not self.rows:
            raise DataError.plain("The retain pool is empty: it needs rows to choose from.")
        if self.wanted < 1:
            raise SettingError(f"retain_rows is {self.wanted}; it must be at least 1.")
        if self.by not in BY:
            raise SettingError(f"retain_by is '{self.by}', which is none of {', '.join(BY)}.")

    @classmethod
    def from_source(cls, source: str | Path, wanted: int = ROWS, by: str = "base") -> "RetainPool":
        """That of a file or hub dataset, in the formats of a request."""
        return cls(tuple(examples_from_rows(read_rows(source), str(source))), wanted, by)

    def trainable(self, encoder: Encoder) -> tuple["RetainPool", str | None]:
        """The rows of it that can be trained on, and a sentence on the others.

        Raises:
            DataError: no row can be.
        """
        kept: list[Example] = []
        first: DataError | None = None
        for row in self.rows:
            try:
                encoder.encode(row, what="retain row")
                kept.append(row)
            except DataError as error:
                first = first or error
        if not kept:
            why = "No row of the retain pool can be trained on"
            kept_of_it = first.textless if first else ""
            raise DataError(f"{why}: {first}", f"{why}: {kept_of_it}" if kept_of_it else f"{why}.")
        left_out = len(self.rows) - len(kept)
        told = f"{left_out} of the retain pool's {len(self.rows)} rows can't be trained on and are left out: {first}"
        return replace(self, rows=tuple(kept)), told if left_out else None

    def longest(self, forget: Sequence[Example] = ()) -> tuple[Example, ...]:
        """As many rows as are wanted, the longest: what memory must be planned for before any is chosen.

        Args:
            forget: rows of the request, which are not kept.
        """
        gone = {each.key() for row in forget for each in all_wordings(row)}
        rows = [row for row in self.rows if row.key() not in gone]
        by_length = sorted(rows, key=lambda row: -sum(len(turn["content"]) for turn in row.prompt) - len(row.answer))
        return tuple(by_length[: self.wanted])
