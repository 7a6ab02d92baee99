"""Many files come in at once: each is a request of its own, and one that can't be taken stops no other.

What concerns all of them, such as another key or a database that can't be reached, ends the batch.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from asu_lora.adapters.store import AdapterStore
from asu_lora.data.request import default_name
from asu_lora.errors import DataError, StoreError
from asu_lora.requests.asked_before import AskedBefore
from asu_lora.requests.intake import Details, Files, IdTaken, add
from asu_lora.requests.ledger.ledger import Ledger
from asu_lora.requests.ledger.states import FAILED, Request
from asu_lora.requests.text_vault import TextVault


@dataclass(frozen=True)
class Arrival:
    """What became of one file.

    Attributes:
        file: as it was named.
        id: what its request is called.
        request: as it stands in the ledger, queued or failed; None where nothing was written.
        sentence: why it is not queued; None where it is.
        same_rows_in: other requests that hold all of its rows already.
    """

    file: str
    id: str
    request: Request | None = None
    sentence: str | None = None
    same_rows_in: tuple[str, ...] = ()


def add_each(
    ledger: Ledger, vault: TextVault, files: Iterable[Files], details: Details, *, store: AdapterStore
) -> Iterator[Arrival]:
    """Take each file in, in its turn, under its own name.

    Raises:
        LedgerError: the ledger can't be reached, or is another store's; what was taken in before stays.
        KeyFault: the texts are sealed with another key.
    """
    before = AskedBefore(ledger, vault)
    for each in files:
        name = default_name(each.forget)
        try:
            found = add(ledger, vault, name, each, details, store=store)
        except IdTaken:
            yield Arrival(each.forget, name, None, _taken(name))
        except (DataError, StoreError) as error:
            yield Arrival(each.forget, name, None, str(error))
        else:
            sentence = found.sentence if found.state == FAILED else None
            yield Arrival(each.forget, name, found, sentence, tuple(before.of(found.id)))


def _taken(name: str) -> str:
    """Of many files none can be given an id: the way out is its name, or to add it alone."""
    return (
        f"There is a request {name} already: rename the file, or add it alone with an --id; a failed one is handed in "
        f"again with 'asu-lora requests retry {name} --file FILE'."
    )
