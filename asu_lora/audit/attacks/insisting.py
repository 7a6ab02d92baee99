"""Insisting and role prompts: somebody who won't take no for an answer, in a written list of kinds."""

from collections.abc import Sequence

from asu_lora.audit.attacks.paraphrases import no_questions
from asu_lora.audit.models import View
from asu_lora.audit.prompts import Prompt, asked, insisting, reworded
from asu_lora.audit.row_attack import Asking
from asu_lora.audit.session import AuditRow, Session


class Insist(Asking):
    """Every kind of the list, or as many a row as the depth says: the kinds then take turns over the rows."""

    name = "insisting"
    says = "insisting, role and begun-answer prompts"

    def untried(self, session: Session) -> str | None:
        return no_questions(session)

    def prompts(self, session: Session, view: View, rows: Sequence[AuditRow]) -> list[Prompt]:
        kinds = insisting()
        count = min(len(kinds), session.effort.insisting)
        found = []
        for at, row in enumerate(rows):
            if row.example.is_passage:
                continue
            for kind in (kinds[(at * count + i) % len(kinds)] for i in range(count)):
                turns = reworded(row.example, kind.user, kind.system)
                found.append(asked(view.encoder, at, turns, kind.kind, kind.begin))
        return found
