"""Which adapter of the store is a request's: the ledger knows its name, and the hash of its weights."""

from asu_lora.adapters.store import AdapterStore
from asu_lora.requests.ledger.ledger import Ledger
from asu_lora.requests.ledger.states import TRAINED, Request


def own_adapter(ledger: Ledger, store: AdapterStore, request: Request) -> str | None:
    """The name of a request's adapter in the store: its own, or another that somebody gave it; None without one."""
    if request.adapter is None or request.adapter in store.names():
        return request.adapter
    made = _made(ledger, request)[-1:]
    return next((each.name for each in store.list() if each.manifest and each.manifest.fingerprint in made), None)


def is_own(ledger: Ledger, store: AdapterStore, request: Request) -> bool:
    """Whether what has the name of a request's adapter is that; somebody may have made another since."""
    if request.adapter is None or request.adapter not in store.names():
        return False
    made, manifest = _made(ledger, request), store.get(request.adapter).manifest
    return not made or manifest is None or manifest.fingerprint in made


def _made(ledger: Ledger, request: Request) -> list[str]:
    """The hashes of all that was trained for a request, the last one last."""
    lines = ledger.history(request.id, [TRAINED])
    return [line.payload["fingerprint"] for line in lines if line.payload.get("fingerprint")]
