"""Token entropy: whether an answer is varied language or one token over and over."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence


def token_entropy(tokens: Sequence[Hashable]) -> float:
    """``-sum(f * log2 f) / log2(n)``, in [0, 1].

    ``f``: the share of each distinct token among the answer's ``n`` tokens. ``tokens``: the answer's
    token ids (or strings) by the model's own tokenizer, special tokens left out. 1 where no token
    repeats, 0 for a single token over and over and for fewer than two tokens. "Token Entropy" of "A
    Closer Look at Machine Unlearning for LLMs" (ICLR 2025), after "Trading Off Diversity and Quality in
    Natural Language Generation" (Zhang et al., 2021).
    """
    n = len(tokens)
    if n < 2:
        return 0.0
    shares = [count / n for count in Counter(tokens).values()]
    return min(1.0, math.fsum(-share * math.log2(share) for share in shares) / math.log2(n))
