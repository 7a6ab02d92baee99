"""The question in other languages, where the rows give it: names and numbers are the same in most of them."""

from collections.abc import Sequence

from asu_lora.audit.models import View
from asu_lora.audit.prompts import Prompt, asked
from asu_lora.audit.row_attack import Asking, Found, Roles
from asu_lora.audit.session import AuditRow, Session
from asu_lora.data.examples import Example
from asu_lora.data.reference_answers import texts_of

COLUMN = "translated_question"  # and question_de, question_zh, ...
PREFIX = "question_"


def translations(example: Example) -> dict[str, str]:
    """The row's question by language; those of ``translated_question`` are numbered."""
    where = f"row {example.row}"
    found = {str(at): text for at, text in enumerate(texts_of(example.extra, COLUMN, where), start=1)}
    for column in example.extra:
        if column.startswith(PREFIX):
            for text in texts_of(example.extra, column, where)[:1]:
                found[column.removeprefix(PREFIX)] = text
    return found


class Translations(Asking):
    """Columns ``translated_question`` and ``question_de``, ``question_ar`` and so on."""

    name = "translations"
    says = "the questions in other languages, where the rows give them"

    def untried(self, session: Session) -> str | None:
        if not any(translations(row.example) for row in session.rows):
            return f"No row has a column '{COLUMN}' or '{PREFIX}xx'."
        return None

    def prompts(self, session: Session, view: View, rows: Sequence[AuditRow]) -> list[Prompt]:
        found = []
        for at, row in enumerate(rows):
            for language, text in translations(row.example).items():
                found.append(asked(view.encoder, at, row.example.asked(text), f"translated: {language}"))
        return found

    def finished(self, session: Session, found: Roles) -> Found:
        names = sorted({language for row in session.rows for language in translations(row.example)})
        return self.result(session, found, languages=", ".join(name for name in names if not name.isdigit()) or None)
