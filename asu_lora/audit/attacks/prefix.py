"""The answer's first words given: a quarter of it, and half. Finds what refuses, and yet goes on once it has begun."""

from collections.abc import Sequence

from asu_lora.audit.models import View
from asu_lora.audit.prompts import Prompt, begun
from asu_lora.audit.row_attack import Asking
from asu_lora.audit.session import AuditRow, Session

SHARES = (0.25, 0.5)


class Prefix(Asking):
    """Facts that stand in what was given don't count."""

    name = "prefix"
    says = "the first quarter and half of the answer given"

    def prompts(self, session: Session, view: View, rows: Sequence[AuditRow]) -> list[Prompt]:
        return [begun(view.encoder, at, row, share) for share in SHARES for at, row in enumerate(rows)]
