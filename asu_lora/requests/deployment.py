"""What is served: an artefact by its hash, and the requests that are in it."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from asu_lora.adapters.manifest import fingerprint_of
from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import LedgerError, StoreError
from asu_lora.files import adapter_files, sha256_file
from asu_lora.requests.ledger.home import must_be_home
from asu_lora.requests.ledger.ledger import Ledger
from asu_lora.requests.ledger.states import AUDITED, DEPLOYED, SERVED, TRAINED
from asu_lora.requests.ledger.words import check_words


@dataclass(frozen=True)
class Artefact:
    """Something that can be served.

    Attributes:
        name: of the adapter, or of the folder or file (its last part: paths can name people).
        kind: ``adapter``, ``folder`` or ``file``.
        hash: SHA-256 of the adapter's weights, or over the files' names and hashes.
        requests: those whose adapters are in it.
    """

    name: str
    kind: str
    hash: str
    requests: list[str]


@dataclass(frozen=True)
class Deployment:
    """An artefact that is served from now on.

    Attributes:
        missing: requests that the artefact served before it held, and this one doesn't.
    """

    artefact: Artefact
    missing: list[str]


def look_at(ledger: Ledger, store: AdapterStore, artefact: str, requests: Sequence[str] = ()) -> Artefact:
    """What a name or a path stands for.

    Args:
        artefact: an adapter of the store, or the folder or file of a merged model.
        requests: those in it, where it doesn't tell by itself, as merged models don't.

    Raises:
        StoreError: there is nothing of that name.
        LedgerError: nothing tells which requests are in it.
    """
    must_be_home(ledger, store)
    if artefact in store.names():
        found = store.get(artefact)
        inside = found.manifest.method.contents() if found.manifest else []
        named = {artefact, *(entry.name for entry in inside)}
        held = [each.id for each in ledger.requests() if (each.adapter or each.id) in named]
        return _checked(Artefact(artefact, "adapter", fingerprint_of(found.path), sorted({*held, *requests})))
    path = Path(artefact).expanduser()
    if path.is_dir():
        digest = hashlib.sha256()
        for name, file in adapter_files(path):
            digest.update(f"{sha256_file(file)}  {name}\n".encode())
        return _checked(Artefact(path.resolve().name, "folder", digest.hexdigest(), sorted(set(requests))))
    if path.is_file():
        return _checked(Artefact(path.name, "file", sha256_file(path), sorted(set(requests))))
    raise StoreError(f"There is no adapter {artefact} in the store {store.root}, and no folder or file of that name.")


def deploy(ledger: Ledger, artefact: Artefact, where: str | None = None) -> Deployment:
    """Write down that an artefact is served, and that its requests are by it.

    Args:
        where: it is served, as people call the place.

    Raises:
        LedgerError: a request in it isn't trained, or was withdrawn; nothing is written then.
    """
    check_words("place", where)
    check_words("artefact's name", artefact.name)
    with ledger.changing() as change:
        for request in artefact.requests:
            found = change.get(request)
            if found is None or found.state not in (TRAINED, AUDITED, DEPLOYED):
                state = found.state if found else "not in the ledger"
                raise LedgerError(
                    f"{artefact.name} holds the request {request}, which is {state}: serve an artefact of trained "
                    "requests alone."
                )
        before = ledger.served()[-1:]
        told = asdict(artefact) | ({"where": where} if where else {})
        change.append(SERVED, None, told)
        for request in artefact.requests:
            change.append(DEPLOYED, request, {"artefact": artefact.name, "hash": artefact.hash})
    lost = {request for line in before for request in line.payload["requests"]} - set(artefact.requests)
    return Deployment(artefact, sorted(lost))


def _checked(artefact: Artefact) -> Artefact:
    if not artefact.requests:
        raise LedgerError(
            f"Nothing tells which requests are in {artefact.name}: name each with --request, or all with --all-trained."
        )
    return artefact
