"""What every loss has: a name, what it looks at, and a value for one set of a batch."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from asu_lora.losses.answers import Answers


class Loss:
    """One loss over one set of a batch (the forget rows, or the retain rows).

    Attributes:
        name: what ``--objective`` or ``--retain-loss`` calls it.
        needs: the views of a row that it looks at, each with the references it compares with. Views:
            ``answer`` is the true answer, ``idk`` an "I don't know" in its place, ``alternate`` another
            answer, ``positions`` the whole row with every position in the answer's place
            (:func:`asu_lora.batches.padding.every_position`). References: see
            :class:`~asu_lora.losses.answers.Answers`.
        settings: its own numbers, which ``--loss-settings`` may change, with the defaults of its paper.
        layer: the decoder layer whose states it looks at; None is the final ones alone.
        refusals: what stands in the ``idk`` view where the user gives no answers, if its paper names these.
    """

    name: ClassVar[str]
    settings: ClassVar[Mapping[str, float]] = {}
    layer: int | None = None
    refusals: ClassVar[tuple[str, ...]] = ()
    needs: Mapping[str, tuple[str, ...]] = {"answer": ()}

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        """The share of these rows in the loss of a step, a scalar in nats; the whole where they are all."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss")

    @classmethod
    def uses_teacher(cls) -> bool:
        """Whether the smoothed base, and with it tau, takes part."""
        return any("teacher" in references for references in cls.needs.values())
