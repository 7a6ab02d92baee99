"""Which requests' last audits are older than the adapters that act today.

An adapter acts from its training until it is removed, or refused by its own audit; then from the audit that it passes.
One that came and was refused since an audit changes nothing for it: to audit again then would cost hours and find the
same.
"""

from collections.abc import Sequence

from asu_lora.requests.ledger.ledger import Ledger
from asu_lora.requests.ledger.states import (
    ADAPTER_REMOVED,
    AUDITED,
    DEPLOYED,
    FAILED,
    RE_AUDITED,
    TRAINED,
    WITHDRAWN,
    Line,
)


def behind(ledger: Ledger) -> list[str]:
    """Requests whose last audit is older than the last adapter that came or went: of others, not their own.

    A first audit attacks an adapter alone: beside others it waits for another at once. One that was deployed before any
    audit waits for its first. Those first whose last audit is oldest.
    """
    lines = ledger.history(events=[TRAINED, ADAPTER_REMOVED, WITHDRAWN, FAILED, AUDITED, RE_AUDITED])
    # a stack is what it was when its audit began: another runner may have added to it before the end
    audits = {str(line.request): line for line in lines if line.event in (AUDITED, RE_AUDITED)}
    audited = {name: line.payload.get("as_of_line", line.number) for name, line in audits.items()}
    acts, gone = _spans(lines)
    newest = sorted((number, name) for name, number in acts.items())[-2:]  # of two, one at least is another's
    found = []
    for request in ledger.requests([AUDITED, DEPLOYED]):
        if (then := audited.get(request.id)) is None:
            found.append(request.id)  # it left the queue unaudited: nothing else would ever audit it
            continue
        alone = audits[request.id].event == AUDITED
        came = any(name != request.id and (alone or then < number) for number, name in newest)
        went = not alone and any(name != request.id and since < then < until for name, since, until in gone)
        if came or went:
            found.append(request.id)
    return sorted(found, key=lambda name: audited.get(name, 0))


def _spans(lines: Sequence[Line]) -> tuple[dict[str, int], list[tuple[str, int, int]]]:
    """Since which line each adapter acts that does; and of each that does no more, from which line to which it did."""
    acts: dict[str, int] = {}
    gone = []
    for line in lines:
        name = str(line.request)
        if line.event == TRAINED and not line.payload.get("sentence"):
            acts[name] = line.number
        elif line.event == AUDITED:
            acts.setdefault(name, line.number)  # an earlier audit had refused it, and this one has not
        elif line.event in (ADAPTER_REMOVED, WITHDRAWN, FAILED) and name in acts:
            gone.append((name, acts.pop(name), line.number))
    return acts, gone
