"""Which store a ledger belongs to.

The ledger's own file lies in its store. A database can be named by anybody: with the wrong store beside it, a
withdrawal would remove nothing and say it did. So the first request that comes into a database binds it to its store,
by a name made of the store's secret. A file that lies in a store is that store's, whoever names it.
"""

from pathlib import Path

from sqlalchemy import Connection

from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import LedgerError
from asu_lora.requests.ledger.database import FILE, FOLDER
from asu_lora.requests.ledger.history import read_head
from asu_lora.requests.ledger.ledger import Change, Ledger

BOUND = "bound"  # of the ledger, not of one request
NAME = "the store of a ledger of requests"  # what the store's secret turns into its name


def bind(ledger: Ledger, change: Change, store_id: str | None) -> None:
    """Write down whose ledger this is, if nothing says so yet.

    Args:
        store_id: of :func:`id_of`; None leaves it open.

    Raises:
        LedgerError: it is another store's.
    """
    if store_id is None:
        return
    bound = ledger.bound_to(change.connection)
    if (bound is not None and bound != store_id) or (bound is None and _is_a_store_s(ledger, change.connection)):
        raise _foreign(ledger)
    if bound is None:
        change.append(BOUND, None, {"store": store_id})


def must_be_home(ledger: Ledger, store: AdapterStore) -> None:
    """Raises:
    LedgerError: the ledger is that of another store.
    """
    if not is_home(ledger, store):
        raise _foreign(ledger)


def is_home(ledger: Ledger, store: AdapterStore) -> bool:
    """Whether the ledger is this store's; one that nothing binds may be."""
    if _lies_in(ledger, store):
        return True
    with ledger.database.reading() as connection:
        bound = ledger.bound_to(connection)
        return not _is_a_store_s(ledger, connection) if bound is None else store.is_request(bound, NAME)


def id_of(ledger: Ledger, store: AdapterStore) -> str | None:
    """The store's name in the ledger; None where the ledger is the file in that store."""
    return None if _lies_in(ledger, store) else store.keyed(NAME)


def _lies_in(ledger: Ledger, store: AdapterStore) -> bool:
    file, own = ledger.database.file, Path(store.root, FOLDER, FILE)
    if file is None:
        return False
    if file.exists() and own.exists():
        return file.samefile(own)  # a store may be mounted at two places
    return file.resolve() == own.resolve()


def _is_a_store_s(ledger: Ledger, connection: Connection) -> bool:
    """Whether a ledger that nothing binds was begun as the file in a store, which is then its own."""
    file = ledger.database.file and ledger.database.file.resolve()
    lies_in_one = file is not None and (file.parent.name, file.name) == (FOLDER, FILE)
    return lies_in_one and read_head(connection).lines > 0


def _foreign(ledger: Ledger) -> LedgerError:
    return LedgerError(
        f"The ledger {ledger.database.shown} is that of another store: name the store it was begun with (--store), or "
        "give this store a database of its own."
    )
