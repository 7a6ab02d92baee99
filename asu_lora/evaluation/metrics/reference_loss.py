"""Reference: a text's loss beside that of a model that never saw it, so that easy texts don't pass for memory."""


def reference_loss(loss: float, reference: float) -> float:
    """``loss - reference``, mean losses of one text in nats; lower means more likely a member.

    ``reference``: of a model trained without the text. "Reference" attack of Carlini et al., "Extracting Training
    Data from Large Language Models" (2021), as open-unlearning computes it.
    """
    return loss - reference
