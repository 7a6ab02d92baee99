"""Neighbours' questions and answers as earlier turns: a model that is in the middle of telling goes on telling."""

from collections.abc import Sequence

from asu_lora.audit.attacks.paraphrases import no_questions
from asu_lora.audit.models import View
from asu_lora.audit.prompts import Prompt, asked, neighbours
from asu_lora.audit.row_attack import Asking
from asu_lora.audit.session import AuditRow, Session

COUNT = 4  # earlier turns


class InContext(Asking):
    """The kept rows nearest to the question stand before it; what they say gives facts away, and doesn't count."""

    name = "in_context"
    says = "behind the questions and answers of kept neighbours"

    def untried(self, session: Session) -> str | None:
        return no_questions(session)

    def prompts(self, session: Session, view: View, rows: Sequence[AuditRow]) -> list[Prompt]:
        others = [example for example in session.inputs.retain if not example.is_passage]
        found = []
        for at, row in enumerate(rows):
            if row.example.is_passage:
                continue
            turns = [dict(turn) for turn in row.example.prompt]
            earlier = [
                turn
                for other in neighbours(row, others, COUNT)
                for turn in (
                    {"role": "user", "content": other.question},
                    {"role": "assistant", "content": other.answer},
                )
            ]
            system = [turn for turn in turns if turn["role"] == "system"]
            rest = [turn for turn in turns if turn["role"] != "system"]
            found.append(asked(view.encoder, at, [*system, *earlier, *rest], "behind neighbours"))
        return found
