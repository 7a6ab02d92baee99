"""Insisting and role prompts: somebody who won't take no for an answer, in written kinds and in the user's."""

from collections.abc import Sequence

from asu_lora.audit.attacks.paraphrases import no_questions
from asu_lora.audit.insisting import insisting
from asu_lora.audit.models import View
from asu_lora.audit.prompts import Prompt, asked, reworded
from asu_lora.audit.row_attack import Asking
from asu_lora.audit.session import AuditRow, Session


class Insist(Asking):
    """All of the user's own, and of the written list as many as the depth says: its kinds take turns over the rows."""

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
            in_turn = [kinds[(at * count + i) % len(kinds)] for i in range(count)]
            for kind in (*session.inputs.insisting, *in_turn):
                turns = reworded(row.example, kind.user, kind.system)
                found.append(asked(view.encoder, at, turns, kind.kind, kind.begin))
        return found
