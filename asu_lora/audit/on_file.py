"""Whether an audit may take the place of the one beside the adapter, which is what ``audit certify`` signs.

An audit of other weights, or one that tried less, is kept apart: it must not stand for the adapter in silence.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from asu_lora.adapters.adapter_spec import parse_adapter, weighted
from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.results import APART_NAME, AUDIT_NAME, AuditResult
from asu_lora.files import read_json

if TYPE_CHECKING:
    from asu_lora.audit.request import AuditRequest


def why_apart(result: AuditResult, request: "AuditRequest", *, replace: bool = False) -> str | None:
    """A sentence, where the audit is kept apart in ``audit.apart.json``; None where it goes into ``audit.json``.

    Args:
        replace: whether it may take the place of a wider audit, or of one of other adapters or weights.
    """
    if not request.adapters:
        return None
    store = AdapterStore(request.store)
    name, _ = parse_adapter(request.adapters[-1])
    if reason := at_another_weight(result):
        return f"{reason}: it is kept apart in {APART_NAME}."
    known = None if replace else _on_file(store.resolve(name))
    if known is None or not _of_these_files(known, result):
        return None
    if reason := _of_others(known, result) or _narrower(known, result):
        return (
            f"The audit of {Path(name).name} on file {reason}, so this one is kept apart in {APART_NAME}; to have it "
            "take that place, and be certified, give --replace."
        )
    return None


def at_another_weight(result: AuditResult) -> str | None:
    """What keeps a single adapter's audit from being the adapter's: it is served at weight 1."""
    if result.audited != "adapter" or result.stacked()[0][1] == 1:
        return None
    name, weight = result.stacked()[0]
    return f"This audit is of {name} at weight {weight:g}, not as the adapter is served alone, at 1"


def _on_file(folder: str | Path) -> AuditResult | None:
    """The audit that lies there; None where there is none that can be read."""
    try:
        return AuditResult.model_validate(read_json(Path(folder) / AUDIT_NAME))
    except (OSError, ValueError):
        return None


def _of_these_files(known: AuditResult, result: AuditResult) -> bool:
    """Whether both attacked the top adapter as it is now: an audit of one that is gone may go."""
    if not (known.attacked and result.attacked and known.attacked.adapters):
        return False
    return known.attacked.adapters[-1:] == result.attacked.adapters[-1:]


def _of_others(known: AuditResult, result: AuditResult) -> str | None:
    if at_another_weight(known) or known.stacked() == result.stacked():
        return None
    return f"is of {' + '.join(weighted(name, weight) for name, weight in known.stacked())}"


def _narrower(known: AuditResult, result: AuditResult) -> str | None:
    made = {attack.attack for attack in result.attacks}
    missing = [attack.attack for attack in known.attacks if attack.attack not in made]
    if missing:
        return f"also tried {', '.join(missing)}"
    return f"asked {known.rows} rows and not {result.rows}" if known.rows > result.rows else None
