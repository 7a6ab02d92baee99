"""An adapter that did not pass its audit: its request fails, and what becomes of the adapter when it is retried.

Too much came back, or no attack could tell how much. The next audit would find the same, so a person decides.

It stays in the store, to be looked into. Retried with the settings and the text it was trained with, it would come out
the same again: it is kept, and audited anew, perhaps against another limit. With others it is trained anew.
"""

from typing import Any

from asu_lora.adapters.manifest import Manifest
from asu_lora.data.request import ForgetRequest
from asu_lora.requests.ledger.claims import Claim, record
from asu_lora.requests.ledger.ledger import Ledger
from asu_lora.requests.ledger.states import ADAPTER_REMOVED, FAILED, TRAINED, TRAINING, Line
from asu_lora.requests.results import ResultStore, addresses_of
from asu_lora.requests.runner.workshop import Workshop

WAY_OUT = "'requests retry' queues it again, to be trained with other settings or held against another limit."
NOT_JUDGED = (
    "'requests retry' queues it again: run with --floor, --floor-base or another --depth, or without --fail-over and "
    "--forget-text to take it as it is."
)


def refuse(shop: Workshop, claim: Claim, found: dict[str, Any]) -> str:
    """Write down that a request did not pass its audit, and take its adapter away where it was published.

    Returns:
        Why, in a sentence.
    """
    sentence = f"{found['over']} {WAY_OUT}" if "over" in found else f"{found['unjudged']} {NOT_JUDGED}"
    record(shop.ledger, claim, FAILED, found | {"sentence": sentence, "refused": claim.request.id}, release=True)
    for address in addresses_of(shop.ledger, claim.request.id):
        ResultStore(address).remove(claim.request.id)
    return sentence


def finish_refusals(shop: Workshop) -> list[str]:
    """Take away what a killed run left at the address of refused requests; of which requests.

    Raises:
        StoreError: the address can't be reached.
    """
    if shop.results is None:
        return []
    there, done = set(shop.results.names()), []
    for request in shop.ledger.requests([FAILED]):
        if request.id not in there or request.adapter is None:
            continue
        made = {line.payload.get("fingerprint") for line in shop.ledger.history(request.id, [TRAINED])}
        found = shop.results.find(request.id)
        if found and found.fingerprint in made and shop.results.remove(request.id):
            done.append(request.id)
    return done


def standing_refusal(ledger: Ledger, name: str, fingerprint: str | None) -> dict[str, str]:
    """What the ledger says of a trained adapter that an audit refused and none has judged since; nothing of others."""
    said = made = None
    for line in ledger.history(name, [TRAINED, FAILED]):
        if line.event == TRAINED:
            made = line.payload.get("fingerprint")
        elif made is not None and made == fingerprint and line.payload.get("refused"):
            said = line.payload.get("over") or line.payload.get("unjudged")
    return {"sentence": f"An audit refused this adapter, and none has judged it since: {said}"} if said else {}


def clear_refused(shop: Workshop, claim: Claim, request: ForgetRequest) -> None:
    """Remove a refused adapter from the store where it would be trained otherwise today."""
    name = claim.request.id
    manifest = shop.store.get(name).manifest
    lines = shop.ledger.history(name, [TRAINING, TRAINED, FAILED])
    trained = max((at for at, line in enumerate(lines) if line.event == TRAINED), default=None)
    if manifest is None or trained is None or not _is_it(lines[trained], manifest):
        return
    begun = next((line for line in reversed(lines[:trained]) if line.event == TRAINING), None)
    if begun is None or not any(line.payload.get("refused") for line in lines[trained:]):
        return
    today = {"settings": shop.settings.identity(), "request": shop.store.keyed(request.fingerprint())}
    if {key: begun.payload.get(key) for key in today} == today:
        return
    shop.store.remove(name)
    record(
        shop.ledger, claim, ADAPTER_REMOVED, {"adapter": name, "why": "its audit had failed, and it is trained anew"}
    )


def _is_it(line: Line, manifest: Manifest) -> bool:
    """Whether an adapter is the one that a line tells of, and not one that was trained since."""
    return line.payload.get("fingerprint") == manifest.fingerprint
