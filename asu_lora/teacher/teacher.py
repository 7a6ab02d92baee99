"""The forget-teacher of one run: how hot it is, in which layers, and where it gives way to the base."""

from collections.abc import Sequence
from dataclasses import dataclass

from asu_lora.models.frozen_layers import FrozenLayers
from asu_lora.teacher.fluency import FluencyMasks


@dataclass(frozen=True)
class Teacher:
    """What makes the frozen base a teacher.

    Attributes:
        tau: temperature of the attention softmax, 1 or more.
        layers: the decoder layers that are smoothed; None is all.
        fluency: where the teacher gives way to the plain base, and what it must not say, a row of the forget set each;
            None is the paper's teacher.
        first_smoothed: the entry to the lowest smoothed layer, where that is above the first adapted one: up to there
            the teacher is the plain base.
    """

    tau: float
    layers: Sequence[int] | None = None
    fluency: FluencyMasks | None = None
    first_smoothed: FrozenLayers | None = None
