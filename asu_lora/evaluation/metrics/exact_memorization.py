"""Exact memorization: how many of the answer's tokens the model would say itself."""

from collections.abc import Sequence

import torch

from asu_lora.errors import DataError

TokenIds = torch.Tensor | Sequence[int]


def matches(predicted: TokenIds, labels: TokenIds) -> torch.Tensor:
    """Which answer tokens the argmax gets right: a bool tensor ``(tokens,)``; labels of -100 are left out.

    ``predicted``: argmax ids under teacher forcing, shape ``(tokens,)``, already shifted so that
    ``predicted[i]`` is the model's guess at ``labels[i]``. :class:`DataError` where the lengths differ or no
    label is left.
    """
    predicted, labels = torch.as_tensor(predicted).flatten(), torch.as_tensor(labels).flatten()
    if predicted.shape != labels.shape:
        raise DataError(f"{len(predicted)} predicted tokens can't be compared with {len(labels)} labels.")
    counted = labels != -100
    if not bool(counted.any()):
        raise DataError("An answer without tokens can't be memorized: no label is left to compare.")
    return (predicted == labels)[counted]


def exact_memorization(predicted: TokenIds, labels: TokenIds) -> float:
    """``sum(argmax_i == y_i) / n`` over the answer's ``n`` tokens; in [0, 1].

    Each token is guessed after the true ones before it. Arguments and errors as in :func:`matches`.
    Tirumala et al., "Memorization Without Overfitting" (NeurIPS 2022), as open-unlearning computes it.
    """
    return float(matches(predicted, labels).double().mean())
