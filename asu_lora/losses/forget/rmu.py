"""Representation misdirection for unlearning (RMU, Li et al. 2024, arXiv 2403.03218, section 4)."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from asu_lora.errors import SettingError
from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss, PaperSettings


class RMU(Loss):
    """|h - steering u|^2 / H of the states h that leave one decoder layer, u a random unit vector.

    The mean over rows of the mean over answer tokens, at the positions that predict them. (The paper sums over H; its
    code takes the mean, as here, so that the two losses' weights keep their sense.) u is uniform on [0, 1)^H before it
    is scaled, and drawn by the run's seed. 1200 is the paper's weight of the retain loss, for Zephyr-7B.

    Args:
        steering: length of the vector that states are drawn to; 6.5 is the paper's for Zephyr-7B.
        layer: the decoder layer, from 0; -1 is the third with an adapter, as the paper trains three and reads the
            highest of them.
        seed: of u.
    """

    name = "rmu"
    settings: ClassVar[Mapping[str, float]] = {"steering": 6.5, "layer": -1}
    paper: ClassVar[PaperSettings] = PaperSettings(forget_coeff=1.0, retain_coeff=1200.0, retain_loss="rmu")

    def __init__(self, steering: float = 6.5, layer: float = -1, seed: int = 0):
        if steering <= 0:
            raise SettingError(f"The steering of rmu is {steering:g}; it must be greater than 0.")
        self.steering, self.layer, self.seed = steering, whole_layer(layer), seed

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        answers = views["answer"]
        states = answers.inner_states().float()
        direction = torch.rand(states.shape[1], generator=torch.Generator().manual_seed(self.seed))
        target = (self.steering * direction / direction.norm()).to(states.device, non_blocking=True)
        return answers.mean_over_rows(answers.row_mean(((states - target) ** 2).mean(1)))


def whole_layer(layer: float) -> int:
    """The layer's number.

    Raises:
        SettingError: it is none.
    """
    if layer != int(layer) or layer < -1:
        raise SettingError(f"The layer of rmu is {layer:g}; it must be a layer's number, from 0, or -1.")
    return int(layer)
