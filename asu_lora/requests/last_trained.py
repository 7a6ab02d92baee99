"""Which adapter each request was trained to last: one of the same name may be an earlier one, or somebody's own."""

from asu_lora.adapters.manifest import StackedOn
from asu_lora.requests.ledger.ledger import Ledger
from asu_lora.requests.ledger.states import TRAINED, Request


def last_trained(ledger: Ledger) -> dict[str, str]:
    """The fingerprint of each request's adapter, by request; earlier versions did not always write one."""
    lines = ledger.history(events=[TRAINED])
    return {str(line.request): line.payload["fingerprint"] for line in lines if line.payload.get("fingerprint")}


def held_as_trained(request: Request, inside: list[StackedOn], made: dict[str, str]) -> bool | None:
    """Whether the request's adapter is among these, with a weight above 0; None where it is an earlier one."""
    mine = [entry for entry in inside if entry.name == (request.adapter or request.id) and entry.weight > 0]
    if not mine:
        return False
    return True if made.get(request.id) in (None, *(entry.fingerprint for entry in mine)) else None
