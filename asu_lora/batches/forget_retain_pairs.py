"""Which retain rows stand beside each forget row, epoch by epoch, and at which doses of the adapter."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

GOLDEN = 0.6180339887498949  # its multiples, modulo 1, are spread evenly however many are taken
SQUARE_ROOT = 0.4142135623730951  # of 2, less 1: so are its multiples, and no multiple of one is near one of the other


class Pair(NamedTuple):
    """A forget row, the retain rows beside it, and the doses of the adapter at these (1 where there are none) and at
    the forget row."""

    forget: int
    retain: list[int]
    doses: list[float] | None = None
    forget_dose: float = 1.0


def dose_of(at: int, highest: float) -> float:
    """The dose of the retain row that is dealt as number ``at``: evenly spread from 1 to ``highest``."""
    return 1.0 + (highest - 1.0) * ((at + 0.5) * GOLDEN % 1.0)


def forget_dose_of(index: int, epoch: int, highest: float) -> float:
    """The dose of a forget row in an epoch: evenly spread from 1 to ``highest`` over the rows and over the epochs.

    Counting the rows on from epoch to epoch would give some rows nearly the same dose every time: where the number of
    rows is 34, say, 34 times the golden ratio is nearly whole.
    """
    return 1.0 + (highest - 1.0) * (((epoch + 0.5) * GOLDEN + index * SQUARE_ROOT) % 1.0)


class ForgetRetainPairs(Dataset):
    """Item i: forget row i and the retain rows drawn beside it.

    Retain rows are dealt from shuffled decks, one after another, so that every row is seen equally often.
    What is dealt follows from seed, epoch and i alone: the same after a resume, the same however many
    processes share the work.

    Args:
        forget_rows: number of encoded forget rows.
        retain_rows: number of encoded retain rows, 0 for none.
        per_forget: retain rows drawn with each forget row.
        seed: of the decks.
        retain_dose, forget_dose: the highest dose of a retain and of a forget row (see
            :mod:`asu_lora.training.doses`).
        in_other_words: forget row -> rows that ask the same; it and they take turns, epoch by epoch.
    """

    def __init__(
        self,
        forget_rows: int,
        retain_rows: int,
        per_forget: int,
        seed: int,
        *,
        retain_dose: float = 1.0,
        forget_dose: float = 1.0,
        in_other_words: Mapping[int, Sequence[int]] = MappingProxyType({}),
    ):
        self.forget_rows = forget_rows
        self.retain_rows = retain_rows
        self.per_forget = per_forget if retain_rows else 0
        self.seed = seed
        self.retain_dose = retain_dose
        self.forget_dose = forget_dose
        self.in_other_words = in_other_words
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called at the start of each epoch."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return self.forget_rows

    def __getitem__(self, index: int) -> Pair:
        start = (self.epoch * self.forget_rows + index) * self.per_forget
        dealt = range(start, start + self.per_forget)
        doses = [dose_of(at, self.retain_dose) for at in dealt] if self.retain_dose != 1.0 else None
        own = forget_dose_of(index, self.epoch, self.forget_dose)
        wordings = (index, *self.in_other_words.get(index, ()))
        asked = wordings[(self.epoch + index) % len(wordings)]
        return Pair(asked, [self._dealt(at) for at in dealt], doses, own)

    def _dealt(self, at: int) -> int:
        deck, place = divmod(at, self.retain_rows)
        if getattr(self, "_deck", None) != deck:
            generator = torch.Generator().manual_seed(hash((self.seed, deck)) % 2**63)
            self._order = torch.randperm(self.retain_rows, generator=generator).tolist()
            self._deck = deck
        return self._order[place]
