"""A set of a run (forget, retain or on-policy): its rows, and the loss that they train."""

from collections.abc import Mapping
from dataclasses import dataclass

from asu_lora.data.training_rows import TrainingRows
from asu_lora.losses.loss import Loss


@dataclass
class TrainingSet:
    """What one set brings to a training step.

    Attributes:
        loss: of this set, over its rows in a batch.
        rows: encoded, with the references that the loss compares with once these are computed.
    """

    loss: Loss
    rows: TrainingRows

    def __len__(self) -> int:
        return len(self.rows)


def losses_of(sets: Mapping[str, TrainingSet]) -> dict[str, Loss]:
    """The loss of each set."""
    return {name: each.loss for name, each in sets.items()}
