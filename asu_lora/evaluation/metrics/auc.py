"""Area under the ROC curve: how well a number tells two sets apart."""

from collections.abc import Sequence

import torch

from asu_lora.errors import DataError


def auc(scores_member: Sequence[float], scores_nonmember: Sequence[float]) -> float:
    """``P(member's score > non-member's) + P(equal) / 2`` over all pairs; in [0, 1].

    0.5 for a test that can't tell the two apart. The area under the ROC curve as the Mann-Whitney
    statistic, ``O((n + m) log m)``. :class:`DataError` where a list is empty or holds a NaN.
    """
    member = torch.as_tensor(scores_member, dtype=torch.float64).flatten()
    nonmember = torch.as_tensor(scores_nonmember, dtype=torch.float64).flatten().sort().values
    if min(member.numel(), nonmember.numel()) == 0:
        raise DataError("An AUC needs scores of members and of non-members; one of the two lists is empty.")
    if bool(member.isnan().any()) or bool(nonmember.isnan().any()):
        raise DataError("An AUC can't rank a score that is NaN.")
    below = torch.searchsorted(nonmember, member, right=False)
    not_above = torch.searchsorted(nonmember, member, right=True)
    return float((below + not_above).double().mean()) / (2 * nonmember.numel())
