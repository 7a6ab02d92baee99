"""Truth ratio: does the model prefer the truth, in other words, to well-made wrong answers?"""

import math
from collections.abc import Sequence

from asu_lora.errors import DataError
from asu_lora.evaluation.metrics.probability import TokenNLL, mean_nll

LARGEST_EXPONENT = 700.0  # exp(+-700) and their inverses are finite floats, and stay numbers in JSON


def truth_ratio(paraphrased_nll: TokenNLL, perturbed_nlls: Sequence[TokenNLL]) -> float:
    """``r = exp(mean over perturbed answers of mean(NLL) - mean(NLL of the paraphrased answer))``; > 0.

    ``paraphrased_nll``: token losses of the truth in other words, shape ``(tokens,)``, in nats (where a
    set has no paraphrase: of the answer itself); ``perturbed_nlls``: one such list for each wrong answer.
    ``r`` is above 1 where the model prefers the truth. Held within ``exp(+-700)``. As in the code of TOFU
    and of "A Closer Look at Machine Unlearning for LLMs" (ICLR 2025); TOFU's paper puts the wrong answers
    on top and averages their ``p`` itself, not its log.

    Raises:
        DataError: no perturbed answer, an answer without tokens, or a NaN.
    """
    if len(perturbed_nlls) == 0:
        raise DataError("The truth ratio needs at least one perturbed (wrong) answer.")
    perturbed = sum(mean_nll(nll) for nll in perturbed_nlls) / len(perturbed_nlls)
    difference = perturbed - mean_nll(paraphrased_nll)
    if math.isnan(difference):
        raise DataError("The truth ratio of two infinite losses is undefined; the logits are broken.")
    return math.exp(min(max(difference, -LARGEST_EXPONENT), LARGEST_EXPONENT))


def truth_ratio_forget(rs: Sequence[float]) -> float:
    """``1 - mean(min(r, 1/r))`` over the forget set's questions; in [0, 1].

    0 where truth and lies weigh the same: the lower, the better forgotten. Same sources (TOFU's own
    forget value is ``mean(min(r, 1/r))``). :class:`DataError` for no ratios, or for one that is negative
    or NaN.
    """
    return 1.0 - sum(min(r, _inverse(r)) for r in _checked(rs)) / len(rs)


def truth_ratio_retain(rs: Sequence[float]) -> float:
    """``mean(max(0, 1 - 1/r))`` over the questions of any other set; in [0, 1].

    1 where only the truth is likely. Same sources. :class:`DataError` for no ratios, or for one that is
    negative or NaN.
    """
    return sum(max(0.0, 1.0 - _inverse(r)) for r in _checked(rs)) / len(rs)


def _inverse(r: float) -> float:
    return 1.0 / r if r > 0 else math.inf


def _checked(rs: Sequence[float]) -> Sequence[float]:
    if len(rs) == 0:
        raise DataError("The truth ratio of a set without questions is undefined.")
    wrong = next((r for r in rs if not r >= 0), None)
    if wrong is not None:
        raise DataError(f"A truth ratio is a positive number, not {wrong}.")
    return rs
