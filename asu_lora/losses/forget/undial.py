"""Self-distillation from adjusted logits (UNDIAL, Dong et al. 2024, arXiv 2402.10052, section 3)."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss, PaperSettings


class UNDIAL(Loss):
    """Cross-entropy to the base's distribution with beta taken off the answer token's logit.

    The mean over all answer tokens of the batch. The target never changes, so nothing can diverge. The paper has no
    retain loss beside it (OpenUnlearning, configs/trainer/UNDIAL.yaml: its weight is 0).
    """

    name = "undial"
    needs = {"answer": ("base",)}
    settings: ClassVar[Mapping[str, float]] = {"beta": 10.0}
    paper: ClassVar[PaperSettings] = PaperSettings(forget_coeff=1.0, retain_loss="none")

    def __init__(self, beta: float = 10.0):
        self.beta = beta

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        answers = views["answer"]
        head = answers.head

        def cross_entropy(logits: torch.Tensor, base: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                target = head.logits(base)
                target.scatter_add_(1, labels[:, None], target.new_full((len(labels), 1), -self.beta))
                target = target.softmax(1)
            return logits.logsumexp(1) - (target * logits).sum(1)

        value = head.per_token(cross_entropy, answers.hidden, answers.references["base"], answers.labels)
        return answers.mean_over_tokens(value)
