"""Extraction strength: how little of the answer must be given before the model says all the rest."""

from asu_lora.evaluation.metrics.exact_memorization import TokenIds, matches


def extraction_strength(predicted: TokenIds, labels: TokenIds) -> float:
    """``1 - min{k : argmax_i == y_i for all i >= k} / n`` over the answer's ``n`` tokens; in [0, 1].

    1: the question alone brings out the whole answer. 0: not even the last token comes. Under teacher forcing
    a right suffix is the greedy suffix, so no generation is needed. Arguments and errors as in
    :func:`~asu_lora.evaluation.metrics.exact_memorization.matches`. Carlini et al., "Extracting Training
    Data from Large Language Models" (2021), in the form of open-unlearning, whose code however gives 1/n
    instead of 0 where the last token is wrong.
    """
    right = matches(predicted, labels).tolist()
    suffix = next((length for length, ok in enumerate(reversed(right)) if not ok), len(right))
    return suffix / len(right)
