"""Pairs of row numbers into what a training step takes: padded passes, labels, references."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from asu_lora.data.batching import forward_passes
from asu_lora.head import FrozenHead
from asu_lora.objectives import Objective
from asu_lora.objectives.answers import Answers
from asu_lora.rows import Rows


class Collator:
    """Builds a step's batch from ``(forget row, [retain rows])`` pairs.

    Forget and retain rows, and their "I don't know" views, share the forward passes: rows of like length
    stand together whatever half they belong to.

    Args:
        halves: the run's rows, ``forget``, (where there is a retain loss) ``retain``, and ``own``, the student's own
            answers, in the last part of a run.
        objectives: the loss of each half.
        pad_id: the padding token.
        own_of: the own row that stands beside a forget row, if it has one.
    """

    def __init__(self, halves: dict[str, Rows], objectives: dict[str, Objective], pad_id: int,
                 own_of: Mapping[int, int] | None = None):
        self.halves = halves
        self.objectives = objectives
        self.pad_id = pad_id
        self.own_of = own_of or {}

    def __call__(self, pairs: Sequence[tuple[int, list[int]]]) -> dict[str, Any]:
        """Returns ``passes`` (see :func:`~asu_lora.data.batching.pad_group`) and, per half and view, where its
        answer tokens stand in the passes' concatenated states (``at``), ``labels``, ``row`` and references."""
        chosen = {"forget": [forget for forget, _ in pairs], "retain": [row for _, rows in pairs for row in rows],
                  "own": [self.own_of[forget] for forget, _ in pairs if forget in self.own_of]}
        keys = [(half, view, row) for half, objective in self.objectives.items()
                for view in objective.needs for row in chosen[half]]
        items = [self.halves[half].views[view][row] for half, view, row in keys]
        passes, starts, at = [], [0] * len(items), 0
        entries = [self.halves[half].entries[view][row] for half, view, row in keys
                   if self.halves[half].entries] or None
        for group, batch in forward_passes(items, self.pad_id, entries=entries):
            passes.append(batch)
            for index in group:
                starts[index] = at
                at += len(items[index].answer_ids)
        parts: dict[str, dict[str, Any]] = {half: {} for half in self.objectives if chosen[half]}
        for half in parts:
            for view, wanted in self.objectives[half].needs.items():
                mine = [i for i, key in enumerate(keys) if key[:2] == (half, view)]
                lengths = torch.tensor([len(items[i].answer_ids) for i in mine])
                parts[half][view] = {
                    "at": torch.cat([torch.arange(starts[i], starts[i] + len(items[i].answer_ids)) for i in mine]),
                    "labels": torch.cat([torch.tensor(items[i].answer_ids) for i in mine]),
                    "row": torch.repeat_interleave(torch.arange(len(mine)), lengths),
                    # a plain number: reading it off the tensor would stall a GPU. Forget rows without own words count
                    "rows": len(pairs) if half == "own" else len(mine),
                    "references": {
                        name: torch.cat([self.halves[half].references[view][name][keys[i][2]] for i in mine])
                        for name in wanted
                    },
                }
        return {"passes": passes, "halves": parts}


def losses(hidden: torch.Tensor, batch: dict[str, Any], objectives: dict[str, Objective],
           head: FrozenHead) -> dict[str, torch.Tensor]:
    """The loss of each half that has rows in the batch, from the student's states (T, H) of a collated batch."""
    found = {}
    for half, parts in batch["halves"].items():
        views = {}
        for view, part in parts.items():
            views[view] = Answers(head, hidden[part["at"]], part["labels"], part["row"], part["rows"],
                                  part["references"])
        found[half] = objectives[half](views)
    return found
