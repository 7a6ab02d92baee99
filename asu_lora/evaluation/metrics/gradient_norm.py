"""Gradient norm: how strongly a text would still change the model, and so how new it is to it."""

from collections.abc import Sequence
from statistics import fmean

from asu_lora.errors import DataError


def gradient_norm(weight_norms: Sequence[float]) -> float:
    """Mean over the model's weights of the 2-norms of the loss's gradient; lower means more likely a member.

    ``weight_norms``: one norm a weight (a matrix or a vector), of the gradient of a text's mean token loss.
    arXiv 2402.17012, as open-unlearning computes it. :class:`DataError` without weights.
    """
    if not weight_norms:
        raise DataError("A gradient norm needs at least one weight that has a gradient.")
    return fmean(weight_norms)
