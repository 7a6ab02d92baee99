"""Differencing: what somebody with the model before and after can do. The two differ by what was forgotten.

Decoding is guided by the difference of the log-probabilities,

    log p_after + STRENGTH (log p_before - log p_after),

which pulls out what was pushed down. And whoever has base and adapter takes the adapter off: that is measured too.
"""

from collections.abc import Sequence

import torch

from asu_lora.audit.decoding import decode
from asu_lora.audit.factual_tokens import factual_tokens
from asu_lora.audit.models import View
from asu_lora.audit.prompts import direct
from asu_lora.audit.readings import Measured, rate, reading, shares
from asu_lora.audit.row_attack import Attack, Found, Roles, asked_directly, rooms_for, told
from asu_lora.audit.session import AuditRow, Session
from asu_lora.models.hidden_states import hidden_states

STRENGTH = 1.5  # 1 is the model before; beyond it, what was pushed down most comes first


class Differencing(Attack):
    """The first reading is what the difference itself names. It is no figure of the released model alone: it has no
    recovered share, and stops no ``--fail-over``."""

    name, kind = "differencing", "differencing"
    says = "decoding guided by before minus after; the adapter taken off"

    def untried(self, session: Session) -> str | None:
        same = session.models.candidate.adapters or session.models.has_own("ceiling")
        return None if same else "There is nothing before and after: the base itself is audited."

    def run(self, session: Session) -> Found:
        rows = session.rows
        candidate, before = session.view("candidate"), session.view("ceiling")
        session.progress.stage(f"{self.name}: guided", len(rows))
        guided = _guided(session, candidate, before, rows)
        with before.on():
            off = asked_directly(session, before, rows)
        named = lifted(candidate, before, rows)
        first = rate(named)
        assert first is not None  # every row has a token
        roles: Roles = {"candidate": guided, "ceiling": off, "floor": _floor(session, rows)}
        done = self.result(session, roles, strength=STRENGTH)
        by_figure = {one.figure: one for one in done.result.readings}
        restored = rate(off.values["facts"])
        assert restored is not None  # the rows have facts
        done.result.readings[:] = [
            reading("fact_tokens_lifted_most", first),
            by_figure["facts"].model_copy(update={"figure": "facts_guided"}),
            reading("facts_adapter_off", restored),
        ]
        done.result.notes.append(
            "Base and adapter together restore everything: without the adapter, the base tells "
            f"{restored.value:.0%} of the facts. Release merged weights alone, and keep base and adapter to yourself."
        )
        return done


def _guided(session: Session, candidate: View, before: View, rows: Sequence[AuditRow]) -> Measured:
    prompts = [direct(candidate.encoder, at, row) for at, row in enumerate(rows)]

    def choose(logits: Sequence[torch.Tensor]) -> torch.Tensor:
        after, earlier = (each.log_softmax(-1) for each in logits)
        return (after + STRENGTH * (earlier - after)).argmax(-1)

    ids = decode(
        [candidate.plain_pass(), before.plain_pass()],
        choose,
        candidate.encoder.tokenizer,
        [prompt.ids for prompt in prompts],
        rooms_for(session, rows, prompts),
        progress=session.progress.advance,
    )
    answers = [candidate.text(each) for each in ids]
    found, records = told(session, rows, prompts, answers)
    return Measured(shares({row: each[0] if each else None for row, each in found.items()}), records=records)


def _floor(session: Session, rows: Sequence[AuditRow]) -> Measured | None:
    """What the base says of rows that it never saw; guided decoding has nothing to guide there."""
    if session.floor_kind == "model":
        view = session.view("floor")
        with view.on():
            return asked_directly(session, view, rows)
    asked = session.floor_rows if session.floor_kind == "rows" else session.swapped(list(rows))
    view = session.view("ceiling")
    with view.on():
        return asked_directly(session, view, asked) if asked else None


@torch.no_grad()
def lifted(after: View, before: View, rows: Sequence[AuditRow]) -> dict[int, float | None]:
    """By row, the share of its factual tokens that are, of all words, those pushed down most (after the true ones)."""
    items = [after.encoder.encode(row.example, row.number)[0] for row in rows]
    states = []
    for view in (after, before):
        with view.on():
            states.append(hidden_states(view.model, items, view.base.pad_id))
    found: dict[int, float | None] = {}
    for row, item, later, earlier in zip(rows, items, *states, strict=True):
        wanted = torch.tensor(factual_tokens(after, item, row))
        labels = torch.tensor(item.answer_ids)[wanted]
        then, now = before.head().logits(earlier[wanted]), after.head().logits(later[wanted])
        fall = then.log_softmax(-1) - now.log_softmax(-1)
        found[row.number] = float((fall.argmax(-1).cpu() == labels).float().mean())
    return found
