"""Relearning on a fifth of the request, then asking the other four fifths: what came back wasn't taught."""

from collections.abc import Sequence

from asu_lora.audit.readings import Measured
from asu_lora.audit.session import AuditRow, Session
from asu_lora.audit.tuned_attack import TunedAttack
from asu_lora.data.examples import Example
from asu_lora.data.sampling import sample

SHARE = 5  # one row in so many is relearnt


class Relearn(TunedAttack):
    """Every fifth row is relearnt.

    The floor is the same with never-seen rows. The control is the candidate, tuned as long on those, or on kept rows.
    """

    name = "relearn"
    says = "fine-tuned on a fifth of the request, the rest asked"

    def untried(self, session: Session) -> str | None:
        if len(session.rows) < SHARE:
            return f"A fifth of {len(session.rows)} rows is none: it takes {SHARE} rows."
        return None

    def material(self, session: Session, rows: Sequence[AuditRow]) -> list[Example]:
        return [row.example for row in rows[::SHARE]]

    def asked(self, rows: Sequence[AuditRow]) -> list[AuditRow]:
        return [row for at, row in enumerate(rows) if at % SHARE]

    def control(self, session: Session, rows: Sequence[AuditRow]) -> Measured | None:
        others: Sequence[Example] = [row.example for row in session.floor_rows] or session.inputs.retain
        if not others:
            return None  # tuned on nothing it would be the candidate itself
        view = session.view("candidate")
        with view.on():
            return self.tuned(session, view, self.asked(rows), sample(others, len(self.material(session, rows))))
