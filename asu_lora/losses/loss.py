"""What every loss has: a name, what it looks at, and a value for one set of a batch."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch

from asu_lora.losses.answers import Answers


class PaperSettings(NamedTuple):
    """What a forget loss stands beside in its paper, and the weights; None where there is nothing of its own.

    Attributes:
        forget_coeff: weight of the forget loss.
        retain_coeff: weight of ``retain_loss``.
        retain_loss: as ``--retain-loss`` names it, ``none`` for a paper without one.
    """

    forget_coeff: float | None = None
    retain_coeff: float | None = None
    retain_loss: str | None = None


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
        paper: retain loss and weights of its paper, for whoever gives none (:func:`asu_lora.losses.paper_settings`).
            Those of the ASU paper's table have none: they are compared at the same weights.
        layer: the decoder layer whose states it looks at; None is the final ones alone.
        refusals: what stands in the ``idk`` view where the user gives no answers, if its paper names these.
    """

    name: ClassVar[str]
    settings: ClassVar[Mapping[str, float]] = {}
    paper: ClassVar[PaperSettings] = PaperSettings()
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
