"""Flat logits under a retain constraint (PDU, Entesari et al. 2025, arXiv 2506.05314, section 3)."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from asu_lora.errors import SettingError
from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss, PaperSettings


class PDU(Loss):
    """(max logit - mean logit)^2, the mean over all answer tokens of the batch; 0 where every word is as likely.

    It is minimised subject to retain loss <= epsilon. The retain loss's weight is the constraint's multiplier: from
    ``warmup`` epochs on, and from half of the run at the latest, it grows by ``step`` (retain loss - epsilon) a step,
    and never falls below 0 (:class:`asu_lora.training.dual.DualCoefficient`). It begins with ``--retain-coeff``, which
    the authors set to 100. The defaults are those of their runs on TOFU, beside ``gd`` (OpenUnlearning,
    community/methods/PDU/run.sh).
    """

    name = "pdu"
    settings: ClassVar[Mapping[str, float]] = {"epsilon": 0.3, "step": 5.0, "warmup": 5.0}
    paper: ClassVar[PaperSettings] = PaperSettings(forget_coeff=1.0, retain_coeff=100.0, retain_loss="gd")

    def __init__(self, epsilon: float = 0.3, step: float = 5.0, warmup: float = 5.0):
        for name, value in (("epsilon", epsilon), ("step", step), ("warmup", warmup)):
            if value < 0:
                raise SettingError(f"The {name} of pdu is {value:g}; it must be at least 0.")
        self.epsilon, self.step, self.warmup = epsilon, step, warmup

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        answers = views["answer"]
        return answers.mean_over_tokens(answers.head.per_token(_squared_margin, answers.hidden))

    def next_coefficient(self, coefficient: float, retain: float) -> float:
        """The retain loss's weight after a step in which it was ``retain`` nats."""
        return max(0.0, coefficient + self.step * (retain - self.epsilon))


def _squared_margin(logits: torch.Tensor) -> torch.Tensor:
    """(t,) squares of the highest logit less the mean of logits (t, V)."""
    return (logits.amax(1) - logits.mean(1)) ** 2
