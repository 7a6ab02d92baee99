"""Answer preservation (A Closer Look at Machine Unlearning for LLMs, ICLR 2025, eq. 7)."""

from collections.abc import Mapping

import torch
from torch.nn.functional import logsigmoid

from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss


class AP(Loss):
    """-(1/beta) log sigmoid(beta (NLL of "I don't know" - NLL of the answer)), sums over rows, the mean over rows.

    On retain questions: the true answer is preferred to a refusal, without a reference model.
    """

    name = "ap"
    needs = {"answer": (), "idk": ()}

    def __init__(self, beta: float = 0.1):
        self.beta = beta

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        margin = views["answer"].row_sum(views["answer"].logprob()) - views["idk"].row_sum(views["idk"].logprob())
        return -views["answer"].mean_over_rows(logsigmoid(self.beta * margin)) / self.beta
