"""Which retain rows stand beside each forget row, epoch by epoch."""

import torch
from torch.utils.data import Dataset


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
    """

    def __init__(self, forget_rows: int, retain_rows: int, per_forget: int, seed: int):
        self.forget_rows = forget_rows
        self.retain_rows = retain_rows
        self.per_forget = per_forget if retain_rows else 0
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called at the start of each epoch."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return self.forget_rows

    def __getitem__(self, index: int) -> tuple[int, list[int]]:
        start = (self.epoch * self.forget_rows + index) * self.per_forget
        return index, [self._dealt(at) for at in range(start, start + self.per_forget)]

    def _dealt(self, at: int) -> int:
        deck, place = divmod(at, self.retain_rows)
        if getattr(self, "_deck", None) != deck:
            generator = torch.Generator().manual_seed(hash((self.seed, deck)) % 2**63)
            self._order = torch.randperm(self.retain_rows, generator=generator).tolist()
            self._deck = deck
        return self._order[place]
