"""``--retain auto``: the rows of a pool that are nearest to the request, for neighbours protect best.

Each row of the request in turn takes the row nearest to it that is still free, so that a request about several things
has neighbours of all of them. Rows that say what must be forgotten are left out (:mod:`asu_lora.retain.same_facts`).
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from asu_lora.data.examples import Example
from asu_lora.data.request import general_retain
from asu_lora.data.retain_pool import RetainPool
from asu_lora.data.sampling import sample
from asu_lora.errors import DataError
from asu_lora.models.loading import LoadedBase
from asu_lora.progress import Progress
from asu_lora.retain.nearness import LOOKED_AT, Nearness, compared, measured
from asu_lora.retain.row_vectors import row_vectors
from asu_lora.retain.same_facts import LIKELY, saying_the_same

TWIN = 0.8  # cosine of rows that say the same in other words: 0.83 to 0.95 on TOFU, other authors' rows 0.73 at most
MOST = 5000  # rows of a pool that are read by the base, spread evenly over it
COMPARING = "Comparing the pool with the request"
STAGE = "Choosing retain rows"
NOTHING_LEFT = "No row of the retain pool can be kept: each says what must be forgotten; name a pool with other rows."


@dataclass(frozen=True)
class RetainChoice:
    """What was chosen, and out of what.

    Attributes:
        rows: the chosen rows, in the order of the pool.
        pool: rows it had; ``looked_at`` of them were read.
        same: rows that say what must be forgotten, or stand in the pool twice; they were left out.
        by: what said which are near.
        nearness: of the chosen rows.
    """

    rows: tuple[Example, ...]
    pool: int
    looked_at: int
    same: int
    by: str
    nearness: Nearness

    def notes(self, wanted: int) -> list[str]:
        """What a person should know of the choice, one sentence each."""
        found = [
            f"{len(self.rows)} retain rows were chosen of {self.pool}; {self.nearness.near} of them are nearer to the "
            f"request than general questions are, and {self.same} that say the same as the request, or stand there "
            "twice, were left out."
        ]
        if self.looked_at == MOST:
            found.append(
                f"Of the retain pool's {self.pool} rows, {self.looked_at} were looked at, spread over all of it."
            )
        if len(self.rows) < wanted:
            found.append(f"The retain pool has {len(self.rows)} rows that can be kept, and {wanted} were asked for.")
        return [*found, *filter(None, [self.nearness.note()])]

    def record(self) -> dict[str, Any]:
        """What a manifest tells of it: numbers, places in the pool, and hashes for the store to key."""
        return {
            "pool_rows": self.pool,
            "looked_at": self.looked_at,
            "left_out": self.same,
            "by": self.by,
            "nearness": asdict(self.nearness),
            "rows": [row.row for row in self.rows],
            "hashes": [row_hash(row) for row in self.rows],
        }


def choose_rows(
    base: LoadedBase, forget: Sequence[Example], pool: RetainPool, progress: Progress | None = None
) -> RetainChoice:
    """The rows of the pool that protect the request's neighbours best.

    Args:
        base: the plain base; adapters on it should be off.
        progress: hears how many rows are read.

    Raises:
        DataError: no row of the pool can be kept.
        ScoreUnavailable: a sentence encoder is asked for, and there is none.
    """
    progress = progress or Progress()
    progress.stage(COMPARING, len(pool.rows))
    free = _different(pool.rows, forget, progress.advance)
    if not free:
        raise DataError.plain(NOTHING_LEFT)
    rows, asked, general = sample(free, MOST), sample(forget, LOOKED_AT), general_retain(forget)
    everything = [*asked, *rows, *general]
    progress.stage(STAGE, len(everything))
    vectors = row_vectors(base, everything, pool.by, progress.advance)
    cosines, yardstick = compared(*vectors.split([len(asked), len(rows), len(general)]))
    likely = torch.tensor(saying_the_same(rows, forget, LIKELY)) & (cosines.amax(1) >= TWIN)
    if likely.all():
        raise DataError.plain(NOTHING_LEFT)
    left = (~likely).nonzero().flatten().tolist()
    chosen = [left[index] for index in nearest_in_turn(cosines[left], pool.wanted)]
    return RetainChoice(
        tuple(rows[index] for index in chosen),
        len(pool.rows),
        len(rows),
        len(pool.rows) - len(free) + int(likely.sum()),
        pool.by,
        measured(cosines[chosen], yardstick, len(chosen)),
    )


def nearest_in_turn(cosines: torch.Tensor, wanted: int) -> list[int]:
    """The rows, in ascending order, that the request's rows take in turn: first each its nearest, then its next.

    Args:
        cosines: (rows to choose from, rows of the request).
    """
    order = cosines.argsort(dim=0, descending=True, stable=True)
    place = order.argsort(dim=0, stable=True).amin(1)  # how soon somebody takes it
    ranked = sorted(range(len(cosines)), key=lambda row: (int(place[row]), -float(cosines[row].amax())))
    return sorted(ranked[:wanted])


def row_hash(row: Example) -> str:
    """SHA-256 over a row's turns and answer: the same row, the same figure, wherever it stands."""
    turns = [[turn["role"], turn["content"]] for turn in row.prompt]
    return hashlib.sha256(json.dumps([*turns, row.answer], ensure_ascii=False).encode()).hexdigest()


def _different(pool: Sequence[Example], forget: Sequence[Example], advance: Callable[[int], None]) -> list[Example]:
    """The rows that may be kept, each once."""
    same = saying_the_same(pool, forget, advance=advance)
    return list({row.key(): row for row, gone in zip(pool, same, strict=True) if not gone}.values())
