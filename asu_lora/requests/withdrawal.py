"""A request is taken back: what it made the model forget, it knows again.

The ledger says so first. So a withdrawal that was cut off in the middle is finished by whoever runs next, and a runner
that is at work on it is refused when it comes to write.
"""

from dataclasses import dataclass

from asu_lora.adapters.store import AdapterStore
from asu_lora.requests.deployment import artefacts_of
from asu_lora.requests.ledger.claims import break_claim
from asu_lora.requests.ledger.home import must_be_home
from asu_lora.requests.ledger.ledger import Ledger
from asu_lora.requests.ledger.states import ADAPTER_REMOVED, WITHDRAWN
from asu_lora.requests.ledger.words import check_words
from asu_lora.requests.leftovers import has_leftovers, remove_leftovers
from asu_lora.requests.own_adapter import holding, is_of_its_text, own_adapter
from asu_lora.requests.results import ResultStore, addresses_of


@dataclass(frozen=True)
class Withdrawal:
    """What a withdrawal did, and what it leaves to do.

    Attributes:
        adapter: that was removed; None where none had been trained.
        trained_on_top: adapters that stood on it and should be trained again.
        inside: adapters and served artefacts that still hold it.
        left: an adapter that has the request's name and was not trained for it; it stays.
    """

    request: str
    adapter: str | None
    trained_on_top: list[str]
    inside: list[str]
    left: str | None = None


def withdraw(ledger: Ledger, store: AdapterStore, request: str, reason: str | None = None) -> Withdrawal:
    """Take a request back and remove its adapter; its text stays sealed, or destroyed, as it is.

    Raises:
        LedgerError: there is no such request, or it was withdrawn and nothing is left to do; or the ledger is another
            store's.
        StoreError: the adapter can't be removed, here or where it was published; the same command goes on.
    """
    check_words("reason", reason)
    must_be_home(ledger, store)
    left = ledger.find(request) is not None and has_leftovers(ledger, store, request)
    with ledger.changing() as change:
        found = change.get(request)
        if found is None or found.state != WITHDRAWN or (found.adapter is None and not left):
            begun = found is not None and found.attempts > 0
            adapter = (found.adapter or request) if begun and found else None
            told = {"adapter": adapter} | ({"reason": reason} if reason else {})
            change.append(WITHDRAWN, request, told)
            break_claim(change.connection, request)
    name = ledger.get(request).adapter
    adapter, above = remove_adapter(ledger, store, request)
    stays = name if name in store.names() else None
    return Withdrawal(request, adapter, above, holders(ledger, store, request), stays)


def remove_adapter(ledger: Ledger, store: AdapterStore, request: str) -> tuple[str | None, list[str]]:
    """Remove what a withdrawn request left in the store; its name, and the adapters that stood on it."""
    found = ledger.get(request)
    name, removed, above = found.adapter, own_adapter(ledger, store, found), []
    if removed is not None:
        above = [other.name for other in store.remove(removed)]
    remove_leftovers(store, request)
    for address in addresses_of(ledger, request):
        ResultStore(address).remove(name or request)
    if name is not None:
        ledger.record(ADAPTER_REMOVED, request, {"adapter": removed} if removed else {})
    return removed, above


def finish_withdrawals(ledger: Ledger, store: AdapterStore, results: ResultStore | None = None) -> list[str]:
    """Finish what was cut off: withdrawn requests of which something is still, or again, here or at the address.

    That is an adapter, or checkpoints, which are made of the text.
    """
    there, done = set(store.names()), []
    published = set(results.names()) if results else set()
    for request in ledger.requests([WITHDRAWN]):
        if request.adapter is not None:
            remove_adapter(ledger, store, request.id)
            done.append(request.id)
        elif request.id in there and is_of_its_text(ledger, store, request):
            store.remove(request.id)  # it was published just as it was withdrawn, and the runner was killed
            ledger.record(ADAPTER_REMOVED, request.id, {"adapter": request.id})
            done.append(request.id)
        if has_leftovers(ledger, store, request.id):
            remove_leftovers(store, request.id)
            done.append(request.id)
        if results and request.id in published and results.remove(request.id):
            done.append(request.id)
    return list(dict.fromkeys(done))


def holders(ledger: Ledger, store: AdapterStore, request: str) -> list[str]:
    """Adapters that are in the store and hold the request's, and what of that served last does."""
    there = set(store.names())
    found = [
        line.payload["adapter"]
        for line in ledger.consolidated()
        if request in line.payload["requests"] and line.payload["adapter"] in there
    ]
    served = [artefact for line in ledger.served()[-1:] for artefact in artefacts_of(line.payload)]
    found += holding(ledger, store, ledger.get(request))
    return list(dict.fromkeys([*found, *(artefact.name for artefact in served if request in artefact.requests)]))
