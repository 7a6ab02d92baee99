"""The same questions with the weights at other precisions: rounding may undo in the file what an adapter did."""

from asu_lora.audit.models import View
from asu_lora.audit.readings import Measured, rate, reading
from asu_lora.audit.results import Reading
from asu_lora.audit.rounding import Way
from asu_lora.audit.row_attack import Attack, Found, Roles, asked_directly, said_only
from asu_lora.audit.session import AuditRow, Session
from asu_lora.bases.checkpoint_files import read_config
from asu_lora.bases.quantization import usable_format
from asu_lora.models.adapter_stack import Stack

QUICK = (Way("nf4", True),)
STANDARD = (Way("nf4", True), Way("q4_0", True), Way("q4_k", True), Way("int8", True), Way("nf4", False))
FULL = (
    *(Way(name, True) for name in ("fp32", "bf16", "int8", "q4_0", "q4_k", "nf4")),
    *(Way(name, False) for name in ("bf16", "int8", "q4_0", "q4_k", "nf4")),
)
TOO_MUCH = 0.25  # recovered, from which on a way of rounding is warned of
WAYS = {"quick": QUICK, "standard": STANDARD, "full": FULL}


class Precision(Attack):
    """The first reading is that of the worst precision; one of each precision follows."""

    name, kind = "precision", "precision"
    says = "the weights rounded: bf16, int8, NF4, GGUF's Q4_0 and Q4_K; merged, and the adapter beside a rounded base"

    def untried(self, session: Session) -> str | None:
        config = read_config(session.models.weights.source.path)
        if usable_format(config, session.models.weights.source.name):
            return "These weights are stored quantised already: there is nothing to round."
        return None

    def run(self, session: Session) -> Found:
        rows, ways = session.rows, WAYS[session.settings.depth]
        if not session.models.weights.adapters:
            ways = tuple(way for way in ways if way.merged)
        session.progress.stage(self.name, len(ways))
        found: dict[Way, Measured] = {}
        encoder = session.encoder
        with session.models.weights.at(ways) as models:
            for way, base in models:
                view = View(way.name, Stack(base, base.model, []), encoder, ())
                found[way] = asked_directly(session, view, rows)
                session.progress.advance()
        worst = max(found, key=lambda way: _mean(found[way]))
        roles: Roles = {"candidate": found[worst], **_controls(session, rows)}
        done = self.result(
            session,
            roles,
            precisions=", ".join(dict.fromkeys(way.precision for way in ways)),
            worst=worst.name,
            trained_on_nf4=session.models.weights.onto_nf4,
        )
        done.result.readings.extend(filter(None, (_one(way, found[way], roles) for way in ways)))
        back = done.result.readings[0].recovered if done.result.readings else None
        if back is not None and back > TOO_MUCH and worst.merged and worst.precision != "fp32":
            done.result.notes.append(
                f"Merged and rounded to {worst.precision}, {back:.0%} of what was to be forgotten comes back. Merge it "
                "with --durable, or serve the adapter beside the base, and audit what is served."
            )
        return done


def _controls(session: Session, rows: list[AuditRow]) -> Roles:
    """The base, asked directly, of these rows and of those that it never saw."""
    view = session.view("ceiling")
    with view.on():
        ceiling = asked_directly(session, view, rows)
        if session.floor_kind == "rows":
            return {"ceiling": ceiling, "floor": asked_directly(session, view, session.floor_rows)}
        if session.floor_kind == "swapped":
            swapped = session.swapped(rows)
            return {"ceiling": ceiling, "floor": said_only(asked_directly(session, view, swapped)) if swapped else None}
    never = session.view("floor")
    with never.on():
        return {"ceiling": ceiling, "floor": asked_directly(session, never, rows)}


def _one(way: Way, measured: Measured, roles: Roles) -> Reading | None:
    """One precision's reading; None where no fact could be asked for."""
    own = rate(measured.values["facts"])
    if own is None:
        return None
    ceiling, floor = (
        rate(found.values["facts"]) if (found := roles.get(role)) else None for role in ("ceiling", "floor")
    )
    return reading(f"facts_{way.name}", own, ceiling, floor)


def _mean(measured: Measured) -> float:
    found = rate(measured.values["facts"])
    return found.value if found else 0.0
