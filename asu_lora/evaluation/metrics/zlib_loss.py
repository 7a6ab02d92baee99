"""zlib: a text's loss by its information, so that plain repetition doesn't pass for memory."""

import zlib

from asu_lora.errors import DataError
from asu_lora.evaluation.metrics.probability import TokenNLL, mean_nll


def zlib_loss(token_nll: TokenNLL, text: str) -> float:
    """``mean(token_nll) / len(zlib(text))``, nats per byte; lower means more likely a member.

    ``token_nll``: as in :func:`~asu_lora.evaluation.metrics.probability.answer_probability`. The length is that of
    the text's UTF-8 bytes after zlib. Carlini et al., "Extracting Training Data from Large Language Models"
    (2021), as open-unlearning computes it. :class:`DataError` for an empty text.
    """
    if not text:
        raise DataError("An empty text has no zlib length to divide by.")
    return mean_nll(token_nll) / len(zlib.compress(text.encode()))
