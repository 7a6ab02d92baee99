"""Cross-entropy unlearning, CE-U (Yang 2025, arXiv 2503.01224, section 3)."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from asu_lora.errors import SettingError
from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss, PaperSettings
from asu_lora.losses.token_kl import NEVER


class CEU(Loss):
    """Cross-entropy to the student's own distribution without the answer token, which is held fixed.

    The mean over all answer tokens of the batch; with ``skip`` 1, without each answer's first, which tells little (a
    footnote of the paper). The paper has no retain loss beside it, nor has OpenUnlearning (src/trainer/unlearn/ceu.py).
    """

    name = "ceu"
    settings: ClassVar[Mapping[str, float]] = {"skip": 1}
    paper: ClassVar[PaperSettings] = PaperSettings(forget_coeff=1.0, retain_loss="none")

    def __init__(self, skip: float = 1):
        if skip not in (0, 1):
            raise SettingError(f"The skip of ceu is {skip:g}; it must be 0 or 1, the tokens left out of each answer.")
        self.skip = int(skip)

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        answers = views["answer"]
        value = answers.head.per_token(_without_answer, answers.hidden, answers.labels)
        tokens, rows = answers.step_tokens or len(answers.labels), answers.step_rows or answers.rows
        if self.skip:  # each row has a first token, so the step counts a token a row less
            return (value * ~answers.first()).sum() / max(tokens - rows, 1)
        return answers.mean_over_tokens(value)


def _without_answer(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(t,) cross-entropies of logits (t, V) to their own softmax without the labels (t,)."""
    answer = logits.gather(1, labels[:, None])[:, 0]
    with torch.no_grad():
        total = logits.logsumexp(1)
        target = logits.scatter(1, labels[:, None], NEVER).softmax(1)
        value = total - (target * logits).sum(1)
        p = (answer - total).exp()
    # the gradient, softmax less target, is p (1 at the answer less target): in this form no digits cancel
    slope = p * (answer - (target * logits).sum(1))
    return value + (slope - slope.detach())
