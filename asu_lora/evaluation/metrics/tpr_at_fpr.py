"""True positives at few false ones: what a membership test finds without accusing the innocent."""

import math
from collections.abc import Sequence

from asu_lora.errors import DataError, SettingError


def tpr_at_fpr(scores_member: Sequence[float], scores_nonmember: Sequence[float], fpr: float = 0.01) -> float:
    """Largest share of members above a threshold that at most ``fpr`` of the non-members exceed; in [0, 1].

    Scores are higher for members. With fewer than ``1 / fpr`` non-members, none of them may lie above the threshold.
    Carlini et al., "Membership Inference Attacks From First Principles" (2022).

    Raises:
        SettingError: ``fpr`` outside [0, 1).
        DataError: a list is empty, or holds a NaN.
    """
    if not 0 <= fpr < 1:
        raise SettingError(f"The share of false positives lies in [0, 1), not {fpr}.")
    if not scores_member or not scores_nonmember:
        raise DataError("A true positive rate needs scores of members and of non-members; one of the lists is empty.")
    if any(math.isnan(score) for score in (*scores_member, *scores_nonmember)):
        raise DataError("A true positive rate can't rank a score that is NaN.")
    allowed = math.floor(fpr * len(scores_nonmember) + 1e-9)  # 1e-9: 0.29 * 100 is 28.999... in floating point
    threshold = sorted(scores_nonmember, reverse=True)[allowed]
    return sum(score > threshold for score in scores_member) / len(scores_member)
