"""Which requests of the store's ledger have adapters by these names."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.requests.ledger.ledger import Ledger
    from asu_lora.requests.ledger.states import Request


def of_requests(store: "AdapterStore", database: str | None, names: Sequence[str]) -> "list[tuple[Ledger, Request]]":
    """The requests whose adapters these are, but withdrawn ones, with their ledgers; one that can't be read is said."""
    from asu_lora.errors import LedgerError

    found = []
    for address in dict.fromkeys((database, None)):  # the store's own file too: it may have come first
        try:
            found += _requests(store, address)
        except LedgerError as error:  # it keeps no adapter in the store
            click.echo(f"Warning: whether a request has one of them can't be told. {error}", err=True)
    return [each for each in found if each[1].adapter in names and each[1].state != "withdrawn"]


def _requests(store: "AdapterStore", database: str | None) -> "list[tuple[Ledger, Request]]":
    """The requests of a ledger; none where there is none, or where it is another store's."""
    from asu_lora.errors import LedgerError
    from asu_lora.requests.ledger.database import Database
    from asu_lora.requests.ledger.home import must_be_home
    from asu_lora.requests.ledger.ledger import open_ledger

    if not Database(store.root, database).exists():
        return []
    ledger = open_ledger(store.root, database)
    try:
        must_be_home(ledger, store)
    except LedgerError:
        return []
    return [(ledger, request) for request in ledger.requests()]
