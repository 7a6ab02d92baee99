"""The question in other words: the row's own paraphrases, the user's, and templates."""

from collections.abc import Sequence

from asu_lora.audit.models import View
from asu_lora.audit.prompts import PHRASINGS, Prompt, asked, reworded
from asu_lora.audit.row_attack import Asking, Found, Roles
from asu_lora.audit.session import AuditRow, Session
from asu_lora.data.reference_answers import reference_answers

COLUMN = "paraphrased_question"


class Paraphrases(Asking):
    """Each row's own ``paraphrased_question``, those of a user's file, and as many templates as the depth says."""

    name = "paraphrases"
    says = "the questions in other words"

    def untried(self, session: Session) -> str | None:
        return no_questions(session)

    def prompts(self, session: Session, view: View, rows: Sequence[AuditRow]) -> list[Prompt]:
        found = []
        for at, row in enumerate(rows):
            if row.example.is_passage:
                continue
            own = session.inputs.paraphrases.ways.get(row.example.question, [])
            texts = dict.fromkeys([*reference_answers(row.example, COLUMN), *own])
            turns = [list(row.example.asked(text)) for text in texts]
            turns += [reworded(row.example, template) for template in PHRASINGS[: session.effort.phrasings]]
            found += [asked(view.encoder, at, conversation, "paraphrased") for conversation in turns]
        return found

    def finished(self, session: Session, found: Roles) -> Found:
        done = super().finished(session, found)
        if note := session.inputs.paraphrases.unasked_note(row.example for row in session.rows):
            done.result.notes.append(note)
        return done


def no_questions(session: Session) -> str | None:
    """Why nothing can be asked: every row is a passage."""
    if all(row.example.is_passage for row in session.rows):
        return "The rows are passages without questions; prefix continues them."
    return None
