"""The question as it stands in the request, and how little of the answer must be given before the rest comes."""

from collections.abc import Sequence

from asu_lora.audit.models import View
from asu_lora.audit.prompts import Prompt, direct
from asu_lora.audit.readings import Measured
from asu_lora.audit.row_attack import Asking
from asu_lora.audit.session import AuditRow, Session


class Direct(Asking):
    """Greedy answers, and extraction strength of the true ones."""

    name = "direct"
    says = "the request's own questions, greedily"

    def prompts(self, session: Session, view: View, rows: Sequence[AuditRow]) -> list[Prompt]:
        return [direct(view.encoder, at, row) for at, row in enumerate(rows)]

    def measure(self, session: Session, view: View, rows: Sequence[AuditRow]) -> Measured:
        found = super().measure(session, view, rows)
        del found.values["facts_mean"]  # there is one way of asking
        return Measured(
            found.values | {"extraction_strength": extraction(view, rows)}, found.curves, found.notes, found.records
        )

    def ceiling(self, session: Session, rows: Sequence[AuditRow]) -> Measured | None:
        return self.measured(session, "ceiling", rows)


def extraction(view: View, rows: Sequence[AuditRow]) -> dict[int, float | None]:
    """Extraction strength of every row's answer."""
    scores = view.scores([row.example for row in rows])
    return {row.number: score.memorization()["extraction_strength"] for row, score in zip(rows, scores, strict=True)}
