"""What can go wrong, said in one sentence that names the thing and the way out.

Every error a user can cause is an :class:`AsuLoraError`. The library raises it; the commands print its
message on stderr and exit with 2. Anything else that escapes is a bug.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class AsuLoraError(Exception):
    """Base class: the message is one clear sentence for the person, without a traceback."""


class DataError(AsuLoraError):
    """A request, retain or question file that is missing, broken, empty or contradictory.

    Its sentence is for the person at the terminal, and may quote rows and name files.

    Attributes:
        textless: what may be kept of it, in a ledger or a log: no word of a row, of a column's name or of a path. It is
            empty where nobody wrote one.
        source: the file that it is about, if it is about one.
    """

    def __init__(self, sentence: str, textless: str = "", source: object = None):
        super().__init__(sentence)
        self.textless, self.source = textless, source

    @classmethod
    def about(cls, source: object, fault: str) -> "DataError":
        """A fault of a file that is told without a word of its rows: ``", row 3: 'answer' is empty."``."""
        return cls(f"{source}{fault}", f"The file{fault}", source)

    @classmethod
    def plain(cls, sentence: str) -> "DataError":
        """A sentence without a word of a request, which may be kept as it is."""
        return cls(sentence, sentence)


class BaseModelError(AsuLoraError):
    """A base that can't be found, loaded, identified or smoothed."""


class SmoothingError(BaseModelError):
    """A model whose attention can't be heated; it is refused by name, never left unsmoothed."""


class AdapterError(AsuLoraError):
    """An adapter that is broken, unknown, or belongs to another base."""


class StoreError(AsuLoraError):
    """An adapter store that can't be read or written, or a name it can't take."""


class CertificateError(AsuLoraError):
    """An audit's certificate that can't be issued, or that must not be trusted."""


class TrainingError(AsuLoraError):
    """A training run that can't go on: NaN loss, no memory, a resume that doesn't fit."""


class NotEnoughMemory(TrainingError):
    """A run that didn't fit into the device's memory; with less at a time it may go on."""


class OtherRun(TrainingError):
    """What an interrupted run left is of another run than the one that is to go on with it."""


class NameAtWork(TrainingError):
    """Another run of the same name is at work in the store."""


class SettingError(AsuLoraError):
    """A setting outside its range."""


class LedgerError(AsuLoraError):
    """A ledger of requests that can't be reached, a request it doesn't have, or a step that its state forbids."""


class KeyFault(AsuLoraError):
    """The key of the requests' texts is missing, no key at all, or another one."""


def first_line(error: Exception) -> str:
    """What an error of another library says, short enough for one sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def quoted(value: object, most: int = 60) -> str:
    """A value as a sentence shows it: cut where it is long, and still in both its quotation marks."""
    told = repr(value)
    return told if len(told) <= most else f"{told[: most - 4]}...{told[-1]}"


def meant(word: object, known: Iterable[object]) -> str | None:
    """The one of the known words that a word comes closest to, as a typing error does; None where none is near."""
    words = [each for each in known if isinstance(each, str)]
    return next(iter(get_close_matches(str(word), words, n=1, cutoff=0.75)), None)
