"""What people may write into the ledger: words that every database, every terminal and every file takes."""

import re

from asu_lora.errors import SettingError

# control characters, which a terminal would obey and Postgres refuses; halves of surrogate pairs, which are no text
NOT_WORDS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def check_words(what: str, words: str | None) -> None:
    """Refuse what can't be written down and shown as it is.

    Args:
        what: the option, for the sentence.

    Raises:
        SettingError: there is a control character in it, or something that is no text.
    """
    if words is not None and NOT_WORDS.search(words):
        raise SettingError(f"The {what} holds a control character, or bytes that are no UTF-8: write it in plain text.")
