"""Direct preference optimisation for "I don't know" against the true answer (arXiv 2305.18290, eq. 7)."""

from collections.abc import Mapping

import torch
from torch.nn.functional import logsigmoid

from asu_lora.losses.answers import Answers
from asu_lora.losses.loss import Loss


class DPO(Loss):
    """-(2/beta) log sigmoid(beta (log-ratio of "I don't know" - log-ratio of the answer)), the mean over rows.

    A log-ratio is the student's summed log-probability less the base's. The factor 2/beta is that of the
    paper's authors' code, which treats DPO and NPO alike.
    """

    name = "dpo"
    needs = {"answer": ("base_logprob",), "idk": ("base_logprob",)}

    def __init__(self, beta: float = 0.1):
        self.beta = beta

    def __call__(self, views: Mapping[str, Answers]) -> torch.Tensor:
        ratio = {name: view.row_sum(view.logprob() - view.references["base_logprob"]) for name, view in views.items()}
        value = logsigmoid(self.beta * (ratio["idk"] - ratio["answer"]))
        return -views["answer"].mean_over_rows(value) * 2 / self.beta
