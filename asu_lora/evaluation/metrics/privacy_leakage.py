"""Privacy leakage: is the forgotten text easier to tell from unseen text than after honest retraining?"""

from asu_lora.errors import DataError


def privacy_leakage(auc_unlearned: float, auc_retrained: float) -> float:
    """``100 * ((1 - auc_unlearned) - (1 - auc_retrained)) / (1 - auc_retrained)``, in percent; 0 is best.

    Each argument: :func:`~asu_lora.evaluation.metrics.auc.auc` of a membership score, forget set as
    members, held-out texts as non-members, for the unlearned model and for one that never saw the forget
    set. Below 0 (no lower than -100): under-unlearned, still known. Above 0: over-unlearned, suspiciously
    unlikely. MUSE ("PrivLeak", with Min-40%) counts the forget set as non-members, hence ``1 - auc``.

    Raises:
        DataError: an AUC outside [0, 1], or ``auc_retrained`` = 1, which leaves nothing to divide by.
    """
    for name, value in (("unlearned", auc_unlearned), ("retrained", auc_retrained)):
        if not 0 <= value <= 1:
            raise DataError(f"The {name} model's AUC is {value}; an AUC lies in [0, 1].")
    if auc_retrained == 1:
        raise DataError("The retrained model's AUC is 1, so privacy leakage would divide by 0.")
    return 100.0 * (auc_retrained - auc_unlearned) / (1.0 - auc_retrained)
