"""Scores of a model that was made to forget: one metric a file, named after it.

Each is a pure function on strings, numbers and tensors; only cosine similarity and entailment load a
model. METRICS lists them all, from what one question gives up to the summaries. Nothing is imported until
it is asked for, so that listing the metrics is free.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One metric, where to find it and how to read it.

    Attributes:
        name: its key in records and summaries.
        path: ``file.function`` in this package.
        of: what one value describes: a "question", a "set" of questions, or a whole "model".
        good: what to wish for, on the forget set and elsewhere.
    """

    name: str
    path: str
    of: str
    good: str

    @property
    def function(self) -> Callable:
        """The function itself, imported now."""
        module, function = self.path.split(".")
        return getattr(importlib.import_module(f"{__name__}.{module}"), function)


LESS, MORE = "lower on the forget set, higher elsewhere", "higher"
UNSEEN = "no higher on the forget set than on unseen text"
UNSEEN_LOSS = "no lower on the forget set than on unseen text"

METRICS = (
    Metric("rouge", "rouge.rouge_l_recall", "question", LESS),
    Metric("rouge_f1", "rouge.rouge_l_f1", "question", LESS),
    Metric("probability", "probability.answer_probability", "question", LESS),
    Metric("normalized_probability", "probability.normalized_probability", "question", MORE),
    Metric("truth_ratio", "truth_ratio.truth_ratio", "question", "1 on the forget set, higher elsewhere"),
    Metric("truth_ratio_forget", "truth_ratio.truth_ratio_forget", "set", "lower"),
    Metric("truth_ratio_retain", "truth_ratio.truth_ratio_retain", "set", MORE),
    Metric("truth_share", "truth_share.truth_share", "question", "0.5 on the forget set, higher elsewhere"),
    Metric("token_entropy", "token_entropy.token_entropy", "question", MORE),
    Metric("cosine_similarity", "cosine_similarity.cosine_similarity", "question", LESS),
    Metric("entailment", "entailment.entailment", "question", LESS),
    Metric("gibberish", "gibberish.is_gibberish", "question", "never"),
    Metric("gibberish_rate", "gibberish.gibberish_rate", "set", "lower"),
    Metric("repetition", "gibberish.repetition", "question", "lower"),
    Metric("extraction_strength", "extraction_strength.extraction_strength", "question", LESS),
    Metric("exact_memorization", "exact_memorization.exact_memorization", "question", LESS),
    Metric("min_k", "min_k.min_k", "question", UNSEEN),
    Metric("min_k_plus_plus", "min_k_plus_plus.min_k_plus_plus", "question", UNSEEN),
    Metric("loss", "probability.mean_nll", "question", UNSEEN_LOSS),
    Metric("zlib_loss", "zlib_loss.zlib_loss", "question", UNSEEN_LOSS),
    Metric("reference_loss", "reference_loss.reference_loss", "question", "0"),
    Metric("gradient_norm", "gradient_norm.gradient_norm", "question", UNSEEN_LOSS),
    Metric("membership_auc", "auc.auc", "set", "0.5"),
    Metric("membership_tpr", "tpr_at_fpr.tpr_at_fpr", "set", "0.01"),
    Metric("privacy_leakage", "privacy_leakage.privacy_leakage", "model", "0"),
    Metric("forget_quality", "forget_quality.forget_quality", "model", MORE),
    Metric("tofu_model_utility", "model_utility.tofu_model_utility", "model", MORE),
    Metric("model_utility", "model_utility.model_utility", "model", MORE),
    Metric("forget_efficacy", "forget_efficacy.forget_efficacy", "model", MORE),
)
