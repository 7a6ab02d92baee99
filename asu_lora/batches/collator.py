"""Pairs of row numbers into what a training step takes: passes, labels, references.

A step is cut into micro-batches, each with a backward pass of its own: what is held at once does not grow with the
rows of a step. Every loss is a sum over rows or tokens divided by a number that the whole step has in common, so the
micro-batches' losses and gradients add up to the step's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from asu_lora.batches.forget_retain_pairs import Pair
from asu_lora.batches.forward_passes import forward_passes, pass_groups, pass_tokens
from asu_lora.batches.packing import Packing
from asu_lora.batches.padding import SMALLEST_PASS, even_parts, padded_length
from asu_lora.data.encoding import Encoded
from asu_lora.data.training_rows import TrainingRows

PASSES = 8  # at least so many parts of a micro-batch's tokens are worth a pass of their own, rather than padding

ON_POLICY = "on_policy"  # the set of the student's own answers


AnyPair = Pair | tuple[int, list[int]] | tuple[int, list[int], list[float]] | tuple[int, list[int], list[float], float]


class Row(NamedTuple):
    """A row of a step: its set, its number there, and at what dose the adapter acts beside it."""

    set: str
    number: int
    dose: float = 1.0


Totals = dict[str, dict[str, dict[str, int]]]  # by set and view: the numbers that means over a step are divided by


class Collator:
    """Builds a step's batch from ``(forget row, [retain rows], [their doses])``.

    Forget and retain rows share the forward passes: rows of like length stand together whatever set they belong to.

    Args:
        sets: the run's rows: ``forget``; ``retain``, where there is a retain loss; and ``on_policy``, the student's
            own answers, in the last phase of a run.
        needs: what each set's loss looks at: by view, the references beside it; see
            :attr:`asu_lora.losses.loss.Loss.needs`.
        pad_id: the padding token.
        most_tokens: of a micro-batch, but for what padding rows of like length to one adds, unless one row has more;
            None for all in one.
        packing: how the rows of a micro-batch are packed into one pass, see
            :func:`asu_lora.models.packing_trial.packing_of`; None pads them, in passes of like length.
        attacked: whether passes say which rows an attacker acts on: all but the retain rows.
    """

    def __init__(
        self,
        sets: Mapping[str, TrainingRows],
        needs: Mapping[str, Mapping[str, Sequence[str]]],
        pad_id: int,
        most_tokens: int | None = None,
        packing: Packing | None = None,
        attacked: bool = False,
    ):
        self.sets = sets
        self.needs = needs
        self.pad_id = pad_id
        self.most_tokens = most_tokens
        self.attacked = attacked
        padded = any(item.padding for name, row in needs.items() for view in row for item in sets[name].views[view])
        self.packing: Packing | None = None if padded else packing
        self.smallest = min(SMALLEST_PASS, most_tokens // PASSES) if most_tokens else SMALLEST_PASS

    def __call__(self, pairs: Sequence[AnyPair]) -> dict[str, Any]:
        """A step's batch, or one of its batches.

        Returns:
            ``totals``: the rows and tokens of these pairs, by set and view. ``micro_batches``: each with ``passes``
            (:func:`~asu_lora.batches.padding.pad_group`) and, per set and view, where its answer tokens stand in the
            passes' concatenated states (``at``), ``labels``, ``row``, references, and the totals.
        """
        rows = self.rows(pairs)
        totals: Totals = {}
        for name in self.needs:
            mine = [row.number for row in rows if row.set == name]
            for view in self.needs[name]:
                tokens = sum(len(self.sets[name].views[view][row].answer_ids) for row in mine)
                # forget rows without an own answer count: they have nothing to mend
                count = len(pairs) if name == ON_POLICY else len(mine)
                totals.setdefault(name, {})[view] = {"step_rows": count, "step_tokens": tokens}
        parts = [self._micro_batch([rows[i] for i in part], totals) for part in self.parts(rows)]
        return {"micro_batches": parts, "totals": totals}

    def rows(self, pairs: Sequence[AnyPair]) -> list[Row]:
        """The rows of a step, those with the longest view first."""
        drawn = [Pair(*pair) for pair in pairs]
        chosen = {
            "forget": [Row("forget", pair.forget, pair.forget_dose) for pair in drawn],
            "retain": [
                Row("retain", *row)
                for pair in drawn
                for row in zip(pair.retain, pair.doses or [1.0] * len(pair.retain), strict=True)
            ],
        }
        if ON_POLICY in self.sets:
            beside = self.sets[ON_POLICY].beside
            chosen[ON_POLICY] = [
                Row(ON_POLICY, beside[pair.forget], pair.forget_dose) for pair in drawn if pair.forget in beside
            ]
        rows = [row for name in self.needs for row in chosen[name]]
        return sorted(rows, key=lambda row: -max(map(len, self._items(row))))

    def parts(self, rows: Sequence[Row]) -> list[list[int]]:
        """Indices into ``rows`` by micro-batch."""
        return even_parts(self.sizes(rows), self.most_tokens) if self.most_tokens else [list(range(len(rows)))]

    def tokens(self, rows: Sequence[Row]) -> int:
        """Tokens of the passes that these rows make, padding included."""
        lengths = [len(item) for row in rows for item in self._items(row)]
        return sum(
            pass_tokens([lengths[index] for index in group], self.packing)
            for group in pass_groups(lengths, None, self.smallest, self.packing)
        )

    def sizes(self, rows: Sequence[Row]) -> list[int]:
        """Tokens of all views of each row, alone."""
        return [sum(padded_length(len(item)) for item in self._items(row)) for row in rows]

    def _items(self, row: Row) -> list[Encoded]:
        return [self.sets[row.set].views[view][row.number] for view in self.needs[row.set]]

    def _micro_batch(self, rows: Sequence[Row], totals: Totals) -> dict[str, Any]:
        keys = [
            (name, view, row.number, row.dose)
            for name, views in self.needs.items()
            for view in views
            for row in rows
            if row.set == name
        ]
        items = [self.sets[name].views[view][row] for name, view, row, _ in keys]
        passes, starts, at = [], [0] * len(items), 0
        entries = [self.sets[name].entries[view][row] for name, view, row, _ in keys if self.sets[name].entries] or None
        for group, batch in forward_passes(
            items, self.pad_id, entries=entries, smallest=self.smallest, packing=self.packing
        ):
            if any(dose != 1.0 for *_, dose in keys):
                batch["doses"] = placed_doses([keys[index][3] for index in group], batch)
            if self.attacked:
                batch["attacked"] = placed_doses([float(keys[index][0] != "retain") for index in group], batch)
            passes.append(batch)
            for index in group:
                starts[index] = at
                at += len(items[index].answer_ids)
        parts: dict[str, dict[str, Any]] = {name: {} for name in self.needs if any(key[0] == name for key in keys)}
        for name in parts:
            for view, wanted in self.needs[name].items():
                mine = [i for i, key in enumerate(keys) if key[:2] == (name, view)]
                lengths = torch.tensor([len(items[i].answer_ids) for i in mine])
                parts[name][view] = {
                    "at": torch.cat([torch.arange(starts[i], starts[i] + len(items[i].answer_ids)) for i in mine]),
                    "labels": torch.cat([torch.tensor(items[i].answer_ids) for i in mine]),
                    "row": torch.repeat_interleave(torch.arange(len(mine)), lengths),
                    # plain numbers: reading them off a tensor would stall a GPU
                    "rows": len(mine),
                    **totals[name][view],
                    "references": {
                        reference: torch.cat([self.sets[name].references[view][reference][keys[i][2]] for i in mine])
                        for reference in wanted
                    },
                }
        return {"passes": passes, "sets": parts}


def placed_doses(doses: Sequence[float], batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The dose of every row of a pass, (b, 1, 1), or of every token where rows are packed, (b, L, 1)."""
    if "attention_mask" in batch:
        return torch.tensor(doses).view(-1, 1, 1)
    placed = torch.ones(batch["input_ids"].numel())
    starts = batch["starts"].tolist()
    for dose, start, end in zip(doses, starts, [*starts[1:], len(placed)], strict=True):
        placed[start:end] = dose
    return placed.view(*batch["input_ids"].shape, 1)
