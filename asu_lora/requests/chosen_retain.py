"""``--retain auto`` for a request that comes in: its retain rows are chosen from a pool, and sealed beside it.

They are chosen once, on the day it comes in: whoever trains it later needs neither the pool nor another choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from asu_lora.data.encoding import encoder_for
from asu_lora.data.examples import as_row, examples_from_rows
from asu_lora.data.retain_pool import RetainPool
from asu_lora.data.row_format import RowFormat
from asu_lora.models.loading import LoadedBase
from asu_lora.progress import Progress
from asu_lora.retain.choose import choose_rows


@dataclass(frozen=True)
class RetainChooser:
    """Chooses the retain rows of one request after the other.

    Attributes:
        base: loaded once, without adapters.
        progress: hears how many rows are read, and notes on each choice.
    """

    base: LoadedBase
    pool: RetainPool
    progress: Progress = field(default_factory=Progress)

    @cached_property
    def trainable(self) -> RetainPool:
        """What of the pool can be trained on, as ``forget`` finds it without options; the rest is told once."""
        pool, left_out = self.pool.trainable(encoder_for(self.base.tokenizer, self.base.model.config, RowFormat()))
        if left_out:
            self.progress.note(left_out)
        return pool

    def rows_for(self, forget: Sequence[dict[str, Any]], source: str) -> list[dict[str, Any]]:
        """Rows of the pool that are nearest to a request, as its sealed text holds them.

        Args:
            forget: the request's rows.
            source: what they are called in messages.

        Raises:
            DataError: no row of the pool can be kept, or trained on.
            ScoreUnavailable: a sentence encoder is asked for, and there is none.
        """
        choice = choose_rows(self.base, examples_from_rows(forget, source), self.trainable, self.progress)
        for note in choice.notes(self.pool.wanted):
            self.progress.note(note)
        return [as_row(row) for row in choice.rows]

    def told(self) -> dict[str, Any]:
        """What the history says of a choice."""
        return {"retain_pool_rows": len(self.pool.rows), "retain_by": self.pool.by}
