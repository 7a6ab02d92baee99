"""One audit from top to bottom: read, load, attack after attack, write down what was found and what was not tried."""

import time
from pathlib import Path

from asu_lora.adapters.manifest import utc_now
from asu_lora.audit.attacked import look_at_attacked, marked
from asu_lora.audit.attacks.paraphrases import Paraphrases
from asu_lora.audit.deadline import Deadline, OutOfTime
from asu_lora.audit.models import Models
from asu_lora.audit.parts import Parts, parts_of
from asu_lora.audit.registry import chosen
from asu_lora.audit.request import AUTO, AuditRequest
from asu_lora.audit.results import AuditResult, Untried
from asu_lora.audit.rounding import AuditedWeights
from asu_lora.audit.row_attack import Attack, Found
from asu_lora.audit.session import Session
from asu_lora.audit.settings import AuditSettings
from asu_lora.data.column_notes import columns_note
from asu_lora.errors import NotEnoughMemory
from asu_lora.files import check_writable
from asu_lora.hardware.memory import is_out_of_memory
from asu_lora.models.adapter_stack import Stack, adapter_folders, load
from asu_lora.models.loading import LoadedBase, load_base
from asu_lora.progress import Progress


def audit(
    request: AuditRequest,
    settings: AuditSettings | None = None,
    progress: Progress | None = None,
    *,
    loaded: LoadedBase | None = None,
) -> AuditResult:
    """Attack what a request made a model forget, as a motivated person would.

    An audit that was interrupted goes on with the attack that it had begun, one whose budget was spent with those that
    it left out; the same seed finds the same.

    Args:
        loaded: ``request.base``, where it is in memory already: its precision and device then count. Afterwards it is a
            plain base again.

    Returns:
        Numbers alone, never a word of the request (that is for ``request.records``).

    Raises:
        AsuLoraError: something is missing, broken or contradictory; before the first attack.
    """
    settings, progress = settings or AuditSettings(), progress or Progress()
    attacks = chosen(settings.attacks, settings.depth)
    inputs = request.read()
    if request.records:
        check_writable(request.records)
    made = None
    if request.control == AUTO:
        from asu_lora.audit.control import with_control  # what trains takes a second to import

        request, made = with_control(request, inputs, progress, loaded)
    deadline = Deadline(progress, settings.budget_s)
    progress.stage("Loading the models")
    with open_models(request, loaded) as models:
        was = look_at_attacked(request, inputs.forget)
        session = Session(inputs, models, settings, deadline, texts=request.records is not None, control_made=made)
        for note in (*models.candidate.notes, *_left_out(session, attacks)):
            progress.note(note)
        try:
            result = _run(session, request, attacks, parts_of(request, session))
            return marked(result, was, request, inputs.forget)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise NotEnoughMemory(
                    "The audit does not fit into memory: choose fewer --attacks, or --quick."
                ) from error
            raise
        finally:
            progress.close()


def _left_out(session: Session, attacks: list[Attack]) -> list[str]:
    """Sentences on what was given and is not asked."""
    rows, ways = session.without_facts, session.inputs.paraphrases
    found = [f"{rows} rows have no fact that their question doesn't tell: they are left out."] if rows else []
    found += filter(None, [columns_note(session.inputs.forget)])
    if ways.count and not any(attack.name == Paraphrases.name for attack in attacks):
        return [*found, "The wordings of --paraphrases are not asked: the attack paraphrases is not chosen."]
    note = ways.unasked_note(row.example for row in session.rows)
    return [*found, note] if note else found


def _run(session: Session, request: AuditRequest, attacks: list[Attack], parts: Parts) -> AuditResult:
    started, results, untried = [utc_now()], [], []
    for attack in attacks:
        found = _one(session, attack, parts)
        if isinstance(found, Untried):
            untried.append(found)
            continue
        results.append(found.result)
        started += [found.started] if found.started else []
        facts = {role: values["facts"] for role, values in found.values.items() if "facts" in values}
        if facts:
            session.kept[attack.name] = facts
    result = AuditResult(
        audited=request.audited,
        names=[name for name, _ in session.models.candidate.adapters],
        weights=[weight for _, weight in session.models.candidate.adapters],
        precision=session.models.candidate.base.precision,
        seed=session.settings.seed,
        rows=len(session.rows),
        started=min(started),
        finished=utc_now(),
        attacks=results,
        untried=[*untried, *_not_chosen(attacks, session.settings)],
        control_made=session.control_made,
    )
    if not (left_out := result.out_of_time()):
        parts.remove()
    elif parts.folder is not None:
        attacks_ = "1 attack was" if len(left_out) == 1 else f"{len(left_out)} attacks were"
        session.progress.note(
            f"{attacks_} left out for want of time: without --budget, the same command makes what is left."
        )
    return result


def _one(session: Session, attack: Attack, parts: Parts) -> Found | Untried:
    """One attack: as an earlier audit left it, or made now; or why it isn't."""
    if reason := attack.untried(session):
        return Untried(attack=attack.name, reason=reason)
    if attack.joins:
        return attack.run(session)
    if found := parts.read(attack.name):
        return found
    spent = f"The budget of {session.settings.budget_s or 0:.0f} seconds was spent"
    if session.time_is_spent:
        return Untried(attack=attack.name, reason=f"{spent} before it.", out_of_time=True)
    started, start = utc_now(), time.monotonic()
    try:
        found = attack.run(session)
    except OutOfTime:
        return Untried(attack=attack.name, reason=f"{spent} while it was made.", out_of_time=True)
    found.result = found.result.model_copy(update={"seconds": round(time.monotonic() - start, 1)})
    found.started = started
    parts.write(attack.name, found)
    return found


def _not_chosen(attacks: list[Attack], settings: AuditSettings) -> list[Untried]:
    """The attacks that exist and weren't asked for: what was not tried belongs to what was found."""
    names = {attack.name for attack in attacks}
    everything = chosen(None, "full")
    why = "Not chosen." if settings.attacks is not None else f"Not part of --{settings.depth}."
    return [Untried(attack=attack.name, reason=why) for attack in everything if attack.name not in names]


def open_models(request: AuditRequest, loaded: LoadedBase | None = None) -> Models:
    """The audited model, and how the others are loaded when they are needed.

    Raises:
        AsuLoraError: as loading does.
    """

    def other(name: str | Path, adapters: tuple[str | Path, ...] = (), base: LoadedBase | None = None) -> Stack:
        trusted = request.trust_remote_code
        base = base or load_base(str(name), request.precision, request.device, trust_remote_code=trusted)
        return load(base, adapters, request.store, rows=request.row_settings())

    folders = adapter_folders(request.adapters, request.store, fit=True)  # what isn't there is said before a base loads
    adapter_folders([request.control] if request.control else [], request.store)
    candidate = other(request.merged) if request.merged else other(request.base, tuple(request.adapters), loaded)
    others = {}
    if request.merged:
        others["ceiling"] = lambda: other(request.base, base=loaded)
    if request.floor_base:
        others["floor"] = lambda: other(str(request.floor_base))
    if request.control:
        others["control"] = lambda: other(request.base, (str(request.control),))
    weights = AuditedWeights(candidate.base.source, folders, request.device, request.trust_remote_code)
    return Models(candidate, weights, **others)
