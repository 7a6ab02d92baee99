"""A request comes in: its file is read, its text sealed, its place in the queue written down, all or nothing.

A file that can't be read is no reason to lose a request: the day it came in and the day it is due count all the same.
It is kept as failed with its sentence, and waits for a better file.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import AsuLoraError, DataError, LedgerError
from asu_lora.requests.ledger.home import bind, id_of
from asu_lora.requests.ledger.ledger import Ledger
from asu_lora.requests.ledger.states import FAILED, QUEUED, RECEIVED, Request
from asu_lora.requests.ledger.words import NOT_WORDS, check_words
from asu_lora.requests.text_vault import RequestText, TextVault

if TYPE_CHECKING:
    from asu_lora.requests.chosen_retain import RetainChooser  # it loads torch

OWN_WORDS = ("question", "answer", "messages", "text", "role", "content", "reasoning_content", "tool_calls")
OWN_COMMAND = "asu-lora [a-z]+|asu-lora (?:audit|adapters|requests) [a-z-]+"  # and no name behind it
SIGN = r"""[^\w'"]"""  # a comma or a bracket that is missing tells nothing
OURS = re.compile(rf"""(?<!\w)(['"])(?:{"|".join(OWN_WORDS)}|{OWN_COMMAND}|{SIGN})\1(?!\w)""")
OF_A_NAME = re.compile(rf"(?:{OWN_COMMAND}) (\S+)")
QUOTED = re.compile(r"""(?<!\w)(['"])([^'"]+)\1(?!\w)""")
OPENS, CLOSES = re.compile(r"(?<!\w)['\"]"), re.compile(r"['\"](?!\w)")  # an apostrophe inside a word does neither
NOTHING_TO_KEEP = (
    "An error about its rows, which may quote them and is not kept: 'asu-lora forget' or 'asu-lora audit run' with its "
    "file shows it."
)


class IdTaken(LedgerError):
    """There is a request of that id already."""


@dataclass(frozen=True)
class Details:
    """What stands beside a request.

    Attributes:
        due: UTC, as :func:`~asu_lora.requests.ledger.due_dates.due_moment` gives it.
        owner: who looks after it.
        basis: the legal basis, say "GDPR Art. 17(1)(b)".
        note: anything else. All three stay readable in the ledger: no personal data belongs here.
    """

    due: str
    owner: str | None = None
    basis: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        for what, words in (("owner", self.owner), ("basis", self.basis), ("note", self.note)):
            check_words(what, words)


@dataclass(frozen=True)
class Files:
    """Where a request's rows are read from.

    Attributes:
        choose: chooses the retain rows; there is no retain file then.
    """

    forget: str
    retain: str | None = None
    where: Mapping[str, Any] | None = None
    choose: "RetainChooser | None" = None

    def read(self) -> RequestText:
        """The rows.

        Raises:
            DataError: whatever a forget run would refuse.
        """
        text = RequestText.from_files(self.forget, self.retain, self.where)
        return replace(text, retain=self.choose.rows_for(text.forget, self.forget)) if self.choose else text

    def told(self) -> dict[str, Any]:
        """What the ledger says of how the retain rows were chosen, once they are read."""
        return self.choose.told() if self.choose else {}


def add(
    ledger: Ledger,
    vault: TextVault,
    request: str,
    files: Files,
    details: Details,
    *,
    store: AdapterStore,
    hear: Callable[[str], None] = lambda sentence: None,
) -> Request:
    """Take a request in.

    Args:
        request: its id, which its adapter will have for a name.
        store: where no adapter of that name may be.
        hear: is told why the file can't be read, in a sentence for the screen alone: it may quote rows.

    Returns:
        The request: queued, or failed where its file is there and can't be read.

    Raises:
        StoreError: the id can't be an adapter's name, or an adapter has it already.
        IdTaken: there is a request of that id.
        LedgerError: the ledger is another store's.
        DataError: there is no such file.
    """
    store.check_name(request)
    with ledger.database.reading() as connection:  # before minutes of reading; the transaction asks again
        vault.check_key(connection)
    if ledger.find(request) is not None:
        raise _taken(request)
    text, fault = _try(files, hear)
    home = id_of(ledger, store)
    with ledger.changing() as change:
        bind(ledger, change, home)
        if change.get(request) is not None:
            raise _taken(request)
        change.append(RECEIVED, request, asdict(details))
        if text is None:
            change.append(FAILED, request, {"sentence": fault})
        else:
            change.append(QUEUED, request, _sealed(vault, change, request, text) | files.told())
    return ledger.get(request)


def hand_in_again(ledger: Ledger, vault: TextVault, request: str, files: Files | None = None) -> Request:
    """Queue a request that failed; with files, of another text.

    Raises:
        LedgerError: it did not fail, or has no text any more and no file was given.
        DataError: the file can't be read.
    """
    found = ledger.get(request)
    if found.state != FAILED:
        raise LedgerError(f"The request {request} is {found.state}: only one that failed is tried again.")
    text = files.read() if files else None
    with ledger.changing() as change:
        if (now := change.get(request)) is None or now.state != FAILED:
            raise LedgerError(f"The request {request} was tried again by somebody else just now.")
        if text is None:
            vault.get(change.connection, request)  # says so where it is gone
        new = _sealed(vault, change, request, text) | files.told() if files and text else {}
        change.append(QUEUED, request, {"why": "retry"} | new)
    return ledger.get(request)


def stored(error: Exception, files: Files | None = None, names: Collection[str] = ()) -> str:
    """What may be kept of an error, in the ledger or a log: no word of a request, and no path of its files.

    One about rows is kept in the words that its raiser meant for it, or as its kind alone. So is one of another
    library, whose own text may hold what it was about.

    Args:
        files: the request's, to say which of them it is about.
        names: as of :func:`masked`.
    """
    if not isinstance(error, AsuLoraError):
        return f"Unexpected: {type(error).__name__}."
    if not isinstance(error, DataError):
        return masked(str(error), names)
    sentence = error.textless or NOTHING_TO_KEEP
    if files and files.retain and error.source is not None and Path(str(error.source)) == Path(files.retain):
        sentence = sentence.replace("The file", "The retain file", 1)
    return NOT_WORDS.sub("?", sentence)


def masked(sentence: str, names: Collection[str] = ()) -> str:
    """A sentence of which nothing is left that stood in quotation marks, but for the program's own words.

    A text may hold quotation marks itself. So all goes from the first of them to the last, and to the sentence's end
    where the last may be one that opens.

    Args:
        names: of requests, adapters and the base, which the ledger holds anyway: they are left, too. Without them
            nobody could tell which of a hundred adapters is broken.
    """
    known = (quoted for quoted in QUOTED.finditer(sentence) if _is_known(quoted[2], names))
    ours = [*OURS.finditer(sentence), *known]
    own = [range(*found.span()) for found in ours]

    def places(mark: re.Pattern[str]) -> list[int]:
        return [at.start() for at in mark.finditer(sentence) if not any(at.start() in each for each in own)]

    opens = places(OPENS)
    if opens:
        last = max(places(CLOSES), default=-1)
        sentence = f"{sentence[: opens[0]]}'...'{sentence[last + 1 :] if last > opens[-1] else ''}"
    return NOT_WORDS.sub("?", sentence)


def _is_known(words: str, names: Collection[str]) -> bool:
    """Whether they are a name, or an own command and a name behind it."""
    command = OF_A_NAME.fullmatch(words)
    return words in names or (command is not None and command[1] in names)


def _try(files: Files, hear: Callable[[str], None]) -> tuple[RequestText | None, str]:
    try:
        return files.read(), ""
    except DataError as error:
        for path in filter(None, (files.forget, files.retain)):
            if not isfile(path):  # of a name too long it says no, where Path raises
                raise
        hear(str(error))
        return None, stored(error, files)


def _sealed(vault: TextVault, change: Any, request: str, text: RequestText) -> dict[str, Any]:
    commitment = vault.put(change.connection, request, text)
    kept = None if text.retain is None else len(text.retain)
    return {"rows": len(text.forget), "retain_rows": kept, "commitment": commitment, "key": vault.key_id}


def _taken(request: str) -> IdTaken:
    return IdTaken(
        f"There is a request {request} already: choose another --id, or hand a failed one in again with "
        f"'asu-lora requests retry {request}'."
    )
