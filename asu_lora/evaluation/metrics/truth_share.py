"""Truth share: the truth ratio as a share, the truth against truth and lies together."""


def truth_share(ratio: float) -> float:
    """``p(true) / (p(true) + p(false)) = r / (1 + r)``, in [0, 1]; a half where both weigh the same.

    ``ratio``: one question's :func:`~asu_lora.evaluation.metrics.truth_ratio.truth_ratio`, whose ``p`` are
    geometric means. Truth ratio of "OpenUnlearning" (arXiv 2506.12618), where its mean tells how much is known.
    """
    return ratio / (1.0 + ratio)
