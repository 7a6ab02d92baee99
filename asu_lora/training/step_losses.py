"""From the states of a forward pass to the losses of its rows, as shares of a whole step's."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from asu_lora.batches.collator import Totals
from asu_lora.losses import Loss
from asu_lora.losses.answers import Answers
from asu_lora.models.output_head import FrozenHead


def losses(
    hidden: torch.Tensor,
    micro_batch: dict[str, Any],
    of: Mapping[str, Loss],
    head: FrozenHead,
    totals: Totals | None = None,
) -> dict[str, torch.Tensor]:
    """The share in its loss of each set that has rows in the micro-batch, from the student's states (T, H).

    Args:
        of: the loss of each set.
        hidden: what :class:`~asu_lora.training.student.Student` gave.
        totals: of the whole step, where that has more batches than this; else those of its batch.
    """
    return {name: of[name](views) for name, views in views_of(hidden, micro_batch, head, totals).items()}


def views_of(
    hidden: torch.Tensor, micro_batch: dict[str, Any], head: FrozenHead, totals: Totals | None = None
) -> dict[str, dict[str, Answers]]:
    """What each set's loss is given, by set and view; the arguments are those of :func:`losses`."""
    found: dict[str, dict[str, Answers]] = {}
    width = head.module.in_features
    inner = hidden[:, width:] if hidden.shape[1] > width else None
    hidden = hidden[:, :width]
    for name, parts in micro_batch["sets"].items():
        views = found.setdefault(name, {})
        for view, part in parts.items():
            step = totals[name][view] if totals else part
            views[view] = Answers(
                head,
                hidden[part["at"]],
                part["labels"],
                part["row"],
                part["rows"],
                part["references"],
                step["step_rows"],
                step["step_tokens"],
                inner[part["at"]] if inner is not None else None,
            )
    return found


def add_totals(parts: Sequence[Totals]) -> Totals:
    """The sum of rows and tokens over parts of a step, by set and view."""
    found: Totals = {}
    for part in parts:
        for name, views in part.items():
            for view, counts in views.items():
                so_far = found.setdefault(name, {}).setdefault(view, dict.fromkeys(counts, 0))
                for what, count in counts.items():
                    so_far[what] += count
    return found
