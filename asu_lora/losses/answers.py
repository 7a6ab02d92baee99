"""What a loss is given: the answer positions of a batch, seen from the student and from its references."""

from dataclasses import dataclass, field

import torch

from asu_lora.models.output_head import FrozenHead, label_logprob


@dataclass
class Answers:
    """Answer tokens of several rows, one after another, T in all.

    Attributes:
        head: the frozen output head.
        hidden: (T, H) the student's final hidden states at the positions that predict the answer tokens.
        labels: (T,) the answer tokens.
        row: (T,) index of each token's row, from 0.
        rows: the number of rows.
        step_rows, step_tokens: rows and tokens that means are taken over, where these are a part of a step's: those of
            all its batches, on all processes; else ``rows`` and T.
        references: what was computed once, before training: ``teacher`` and ``base``, (T, H) final hidden
            states of the smoothed and of the plain base; ``base_logprob``, (T,) log-probabilities in nats;
            ``ruled_out``, (T, k) ids that the teacher must not say; ``inner``, (T, H) the base's states at the
            layer of :attr:`inner`.
        inner: (T, H) the student's states that leave :attr:`asu_lora.losses.loss.Loss.layer`, at the same positions.
    """

    head: FrozenHead
    hidden: torch.Tensor
    labels: torch.Tensor
    row: torch.Tensor
    rows: int
    references: dict[str, torch.Tensor] = field(default_factory=dict)
    step_rows: int | None = None
    step_tokens: int | None = None
    inner: torch.Tensor | None = None

    def logprob(self) -> torch.Tensor:
        """(T,) log-probability of every answer token under the student, nats."""
        return self.head.per_token(label_logprob, self.hidden, self.labels)

    def inner_states(self) -> torch.Tensor:
        """(T, H) :attr:`inner`, which a loss with a layer is given."""
        if self.inner is None:
            raise ValueError("The forward pass kept no layer's states for this loss.")
        return self.inner

    def last(self) -> torch.Tensor:
        """(T,) whether a token is the last of its row."""
        edge = torch.ones_like(self.row, dtype=torch.bool)
        edge[:-1] = self.row[1:] != self.row[:-1]
        return edge

    def first(self) -> torch.Tensor:
        """(T,) whether a token is the first of its row."""
        edge = torch.ones_like(self.row, dtype=torch.bool)
        edge[1:] = self.row[1:] != self.row[:-1]
        return edge

    def places_left(self) -> torch.Tensor:
        """(T,) how many tokens of its row follow each token."""
        ones = torch.ones_like(self.row)
        ends = self.row_sum(ones).cumsum(0)  # bincount would stall a GPU
        return ends[self.row] - ones.cumsum(0)

    def row_sum(self, values: torch.Tensor) -> torch.Tensor:
        """(rows,) the sum of (T,) values over each row."""
        return values.new_zeros(self.rows).index_add(0, self.row, values)

    def row_mean(self, values: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """(rows,) the mean of (T,) values over each row, over the tokens of weight 1; 0 for a row without."""
        weight = torch.ones_like(values) if weight is None else weight.to(values.dtype)
        return self.row_sum(values * weight) / self.row_sum(weight).clamp(min=1)

    def mean_over_rows(self, values: torch.Tensor) -> torch.Tensor:
        """This part's share of the mean over the step's rows of (rows,) values: the shares add up to it."""
        return values.sum() / (self.step_rows or self.rows)

    def mean_over_tokens(self, values: torch.Tensor) -> torch.Tensor:
        """The same of the mean over all answer tokens of (T,) values."""
        return values.sum() / (self.step_tokens or len(self.labels))
