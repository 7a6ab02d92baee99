"""What is served: artefacts by their hashes, and the requests that are in them.

What is served together is one set and one line of the history. A line of a single artefact holds that artefact's
fields alone, as every line did before there were sets.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from asu_lora.adapters.manifest import StackedOn, fingerprint_of
from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import LedgerError, StoreError
from asu_lora.files import adapter_files, expanded, sha256_file
from asu_lora.requests.last_trained import held_as_trained, last_trained
from asu_lora.requests.ledger.home import must_be_home
from asu_lora.requests.ledger.ledger import Ledger
from asu_lora.requests.ledger.states import DEPLOYED, SERVED, TRAINED
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
    """What is served from now on.

    Attributes:
        artefacts: served together, in the order in which they were named.
        missing: requests that were served before, and are in none of them.
        over: requests in them whose last audit is not passed, and a sentence on each.
    """

    artefacts: list[Artefact]
    missing: list[str]
    over: dict[str, str] = field(default_factory=dict)

    @property
    def requests(self) -> list[str]:
        """Those in any of them, by name."""
        return sorted(request for artefact in self.artefacts for request in artefact.requests)


def look_at(ledger: Ledger, store: AdapterStore, names: Sequence[str], requests: Sequence[str] = ()) -> list[Artefact]:
    """What names or paths stand for.

    Args:
        names: adapters of the store, or folders or files of merged models.
        requests: those in it, where it doesn't tell by itself, as merged models don't. Of several artefacts one alone
            may leave them to be told.

    Raises:
        StoreError: there is nothing of that name.
        LedgerError: nothing tells which requests are in one of them.
    """
    must_be_home(ledger, store)
    found = [_look(ledger, store, name) for name in names]
    if len(found) == 1:
        if found[0].requests and (others := set(requests) - set(found[0].requests)):
            raise LedgerError(
                f"{found[0].name} holds {', '.join(found[0].requests)}, and not {min(others)}: an adapter tells by "
                "itself which requests are in it, so leave --request and --all-trained out."
            )
        return [_checked(_with(found[0], requests))]
    rest = set(requests) - {request for artefact in found for request in artefact.requests}
    silent = [artefact for artefact in found if not artefact.requests]
    if rest and len(silent) != 1:
        raise LedgerError(
            f"Nothing tells in which of {_named(silent or found)} the request {min(rest)} is: of a set, --request is "
            "for one artefact that doesn't tell by itself."
        )
    return [_checked(artefact if artefact.requests else _with(artefact, sorted(rest))) for artefact in found]


def deploy(ledger: Ledger, artefacts: Sequence[Artefact], where: str | None = None) -> Deployment:
    """Write down that artefacts are served together, and that their requests are by them.

    Args:
        where: they are served, as people call the place.

    Raises:
        LedgerError: a request in one of them isn't trained, was withdrawn, or is in two of them; nothing is written
            then.
    """
    check_words("place", where)
    for artefact in artefacts:
        check_words("artefact's name", artefact.name)
    _refuse_twice(artefacts)
    over: dict[str, str] = {}
    with ledger.changing() as change:
        for artefact in artefacts:
            for request in artefact.requests:
                found = change.get(request)
                if found is None or not found.stands:
                    state = found.state if found else "not in the ledger"
                    state = f"refused: {str(found.sentence).rstrip('.')}" if found and found.state == TRAINED else state
                    raise LedgerError(
                        f"{artefact.name} holds the request {request}, which is {state}: serve an artefact of trained "
                        "requests alone."
                    )
                over |= {request: found.sentence} if found.sentence else {}
        before = ledger.served()[-1:]
        change.append(SERVED, None, _payload(artefacts) | ({"where": where} if where else {}))
        for artefact in artefacts:
            beside = [other.name for other in artefacts if other is not artefact]
            told = {"artefact": artefact.name, "hash": artefact.hash} | ({"beside": beside} if beside else {})
            for request in artefact.requests:
                change.append(DEPLOYED, request, told)
    now = {request for artefact in artefacts for request in artefact.requests}
    lost = {request for line in before for request in line.payload["requests"]} - now
    return Deployment(list(artefacts), sorted(lost), over)


@dataclass(frozen=True)
class Place:
    """Where a request is served now.

    Attributes:
        artefact: that holds it.
        beside: names of those that are served together with it.
        since: UTC.
        where: as people call the place; None where nobody said.
    """

    artefact: Artefact
    beside: list[str]
    since: str
    where: str | None


def served_in(ledger: Ledger, request: str) -> Place | None:
    """Where a request is served now; None where what was deployed last doesn't hold it."""
    for line in ledger.served()[-1:]:
        artefacts = artefacts_of(line.payload)
        for artefact in artefacts:
            if request in artefact.requests:
                beside = [other.name for other in artefacts if other is not artefact]
                return Place(artefact, beside, line.at, line.payload.get("where"))
    return None


def artefacts_of(payload: Mapping[str, Any]) -> list[Artefact]:
    """The artefacts of a line that says what is served, an old one of a single artefact too."""
    fields = ("name", "kind", "hash", "requests")
    return [Artefact(*(told[field] for field in fields)) for told in payload.get("artefacts", [payload])]


def _payload(artefacts: Sequence[Artefact]) -> dict[str, Any]:
    """What the line holds; a set has the fields of an artefact too, its hash over the names and hashes in it."""
    if len(artefacts) == 1:
        return asdict(artefacts[0])
    lines = sorted(f"{artefact.hash}  {artefact.name}\n" for artefact in artefacts)
    together = Artefact(
        ", ".join(artefact.name for artefact in artefacts),
        "set",
        hashlib.sha256("".join(lines).encode()).hexdigest(),
        sorted(request for artefact in artefacts for request in artefact.requests),
    )
    return asdict(together) | {"artefacts": [asdict(artefact) for artefact in artefacts]}


def _look(ledger: Ledger, store: AdapterStore, artefact: str) -> Artefact:
    """An artefact with the requests of which it tells by itself."""
    if artefact in store.names():
        found, made = store.get(artefact), last_trained(ledger)
        own = StackedOn(name=artefact, fingerprint=fingerprint_of(found.path), weight=1.0)
        inside = [own, *(found.manifest.method.contents() if found.manifest else [])]
        held = {each.id: held_as_trained(each, inside, made) for each in ledger.requests()}
        earlier = [each.id for each in ledger.standing() if held[each.id] is None]
        if earlier:
            raise LedgerError(
                f"{artefact} holds another adapter of the request {earlier[0]} than it was trained to last: "
                "combine it anew from those, or train the request again."
            )
        return Artefact(
            artefact, "adapter", own.fingerprint, sorted(name for name, is_in in held.items() if is_in is not False)
        )
    path = expanded(artefact)
    if path.is_dir():
        digest, files = hashlib.sha256(), list(adapter_files(path))
        if not files:
            raise StoreError(f"The folder {path} is empty: nothing of it can be served.")
        for name, file in files:
            digest.update(f"{sha256_file(file)}  {name}\n".encode())
        return Artefact(path.resolve().name, "folder", digest.hexdigest(), [])
    if path.is_file():
        return Artefact(path.name, "file", sha256_file(path), [])
    raise StoreError(f"There is no adapter {artefact} in the store {store.root}, and no folder or file of that name.")


def _with(artefact: Artefact, requests: Sequence[str]) -> Artefact:
    return replace(artefact, requests=sorted({*artefact.requests, *requests}))


def _checked(artefact: Artefact) -> Artefact:
    if not artefact.requests:
        raise LedgerError(
            f"Nothing tells which requests are in {artefact.name}: name each with --request, or all with --all-trained."
        )
    return artefact


def _refuse_twice(artefacts: Sequence[Artefact]) -> None:
    count = Counter(request for artefact in artefacts for request in artefact.requests)
    for request, times in count.items():
        if times > 1:
            holding = [artefact for artefact in artefacts if request in artefact.requests]
            raise LedgerError(
                f"The request {request} is in {_named(holding)}: served together it would act {times} times; leave all "
                "but one of them out."
            )


def _named(artefacts: Sequence[Artefact]) -> str:
    return " and ".join(artefact.name for artefact in artefacts)
