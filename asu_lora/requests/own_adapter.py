"""Which adapters of the store are a request's, or hold it: the ledger knows its name, and the hash of its weights."""

from asu_lora.adapters.store import AdapterStore
from asu_lora.requests.last_trained import last_trained
from asu_lora.requests.ledger.ledger import Ledger
from asu_lora.requests.ledger.states import TRAINED, TRAINING, Request


def own_adapter(ledger: Ledger, store: AdapterStore, request: Request) -> str | None:
    """The name of a request's adapter in the store: its own, or another that somebody gave it; None without one."""
    if request.adapter is None or is_own(ledger, store, request):
        return request.adapter
    made = _made(ledger, request)[-1:]
    found = [each.name for each in store.list() if each.manifest and each.manifest.fingerprint in made]
    others = _of_others(ledger, request) if found else set()
    return next((name for name in found if (name, made[0]) not in others), None)


def is_own(ledger: Ledger, store: AdapterStore, request: Request) -> bool:
    """Whether what has the name of a request's adapter is that; somebody may have made another since."""
    if request.adapter is None or request.adapter not in store.names():
        return False
    made, manifest = _made(ledger, request), store.get(request.adapter).manifest
    return not made or manifest is None or manifest.fingerprint in made or is_of_its_text(ledger, store, request)


def is_of_its_text(ledger: Ledger, store: AdapterStore, request: Request) -> bool:
    """Whether what has the name of a request's adapter was trained on its rows; a killed runner told of none."""
    manifest = store.get(request.adapter or request.id).manifest
    begun = {line.payload.get("request") for line in ledger.history(request.id, [TRAINING])}
    return manifest is not None and manifest.request.fingerprint in begun


def holding(ledger: Ledger, store: AdapterStore, request: Request) -> list[str]:
    """The adapters of the store that hold a request's: sums of it with others, whoever made them, and copies."""
    own, made = request.adapter or request.id, _made(ledger, request)
    found, others = [], _of_others(ledger, request)
    for each in store.list():
        if each.manifest is None or each.name == own or (each.name, each.manifest.fingerprint) in others:
            continue
        contents = [entry for entry in each.manifest.method.contents() if entry.weight != 0]
        inside = [entry for entry in contents if (entry.name, entry.fingerprint) not in others]
        hashes = {each.manifest.fingerprint, *(entry.fingerprint for entry in inside)}
        if hashes & {*made} if made else own in {entry.name for entry in inside}:
            found.append(each.name)
    return found


def _of_others(ledger: Ledger, request: Request) -> set[tuple[str | None, str | None]]:
    """The adapters of the other requests, by name and weights: one of the same rows has the very same weights."""
    made = last_trained(ledger)
    return {(each.adapter, made.get(each.id)) for each in ledger.requests() if each.id != request.id}


def _made(ledger: Ledger, request: Request) -> list[str]:
    """The hashes of all that was trained for a request, the last one last."""
    lines = ledger.history(request.id, [TRAINED])
    return [line.payload["fingerprint"] for line in lines if line.payload.get("fingerprint")]
