"""Whether the Hugging Face hub can be reached, found out quickly.

The hub's own client retries for most of a minute before it gives up; a person without a network should hear
of it at once.
"""

HUB_SECONDS = 5.0  # to wait for the hub's first word


def hub_answers() -> bool:
    """One quick try; False too when ``HF_HUB_OFFLINE`` is set."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:  # each version of the hub's client brings its own network errors
        return False
    return True
