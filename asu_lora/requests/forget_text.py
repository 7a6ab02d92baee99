"""The end of a request's text: it is destroyed once it has served, and what is lost with it is said."""

from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import LedgerError
from asu_lora.requests.ledger.home import must_be_home
from asu_lora.requests.ledger.ledger import Change, Ledger
from asu_lora.requests.ledger.states import TEXT_DESTROYED, TEXT_SEALED, TRAINED, WITHDRAWN, Request
from asu_lora.requests.leftovers import remove_leftovers
from asu_lora.requests.text_vault import destroy_text

LOST = (
    "it can't be trained again, nor asked again by a later audit; whether a file is the one that was handed in can "
    "still be told"
)


def forget_text(ledger: Ledger, store: AdapterStore, request: str, unaudited: bool = False) -> bool:
    """Destroy the text of an audited or withdrawn request; whether there was one.

    Args:
        unaudited: destroy it although its adapter was not audited.

    Raises:
        LedgerError: its adapter is not trained, or not audited; or the ledger is another store's; or its text is
            destroyed, and the database still holds it for another program.
    """
    must_be_home(ledger, store)
    with ledger.changing() as change:
        found = change.get(request)
        if found is None:
            raise LedgerError(f"There is no request {request} in the ledger.")
        _may_go(found, unaudited)
        gone = destroy_in(change, found)
    remove_leftovers(store, request)  # its checkpoints are made of the text too
    if not ledger.database.scrub():
        raise LedgerError(
            f"The text of {request} is destroyed, but another program reads the ledger {ledger.database.shown}, and "
            "what was there still lies in its write-ahead log: end that program (a backup, perhaps) and give the same "
            "command again."
        )
    return gone


def destroy_in(change: Change, request: Request) -> bool:
    """The same within a change; the caller scrubs the database afterwards."""
    if request.text != TEXT_SEALED:
        return False
    destroy_text(change.connection, request.id)
    change.append(TEXT_DESTROYED, request.id, {"kept": "commitments"})
    return True


def _may_go(request: Request, unaudited: bool) -> None:
    if request.text != TEXT_SEALED or request.state == WITHDRAWN or request.audits:
        return
    if request.adapter is None or not request.stands:
        raise LedgerError(
            f"The request {request.id} is {request.state}: its text is needed to train it; withdraw it first, if it "
            "shall not be."
        )
    if request.state == TRAINED and not unaudited:
        raise LedgerError(
            f"The request {request.id} is trained and not audited, and its audit needs the text: run 'asu-lora "
            "requests run', or say --unaudited."
        )
