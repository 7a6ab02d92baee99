"""Neighbours' questions and answers as earlier turns: a model that is in the middle of telling goes on telling."""

from collections.abc import Sequence

from asu_lora.audit.attacks.paraphrases import no_questions
from asu_lora.audit.models import View
from asu_lora.audit.prompts import Prompt, asked, neighbours
from asu_lora.audit.row_attack import MOST_NEW, Asking
from asu_lora.audit.session import AuditRow, Session
from asu_lora.data.examples import Example
from asu_lora.data.row_format import BaseLimits
from asu_lora.models.decoder import base_model

COUNT = 4  # earlier turns


class InContext(Asking):
    """The kept rows nearest to the question stand before it; what they say gives facts away, and doesn't count."""

    name = "in_context"
    says = "behind the questions and answers of kept neighbours"

    def untried(self, session: Session) -> str | None:
        if not any(not example.is_passage for example in session.inputs.retain):
            return "No kept row has a question that could stand before one of the request: name some with --retain."
        return no_questions(session)

    def prompts(self, session: Session, view: View, rows: Sequence[AuditRow]) -> list[Prompt]:
        others = [example for example in session.inputs.retain if not example.is_passage]
        positions = BaseLimits.of(base_model(view.model).config).positions
        found = []
        for at, row in enumerate(rows):
            if row.example.is_passage:
                continue
            near = neighbours(row, others, COUNT)
            prompt = _behind(view, at, row, near)
            while near and positions is not None and len(prompt.ids) + MOST_NEW > positions:
                near = near[1:]  # the farthest goes first
                prompt = _behind(view, at, row, near)
            found.append(prompt)
        return found


def _behind(view: View, at: int, row: AuditRow, near: Sequence[Example]) -> Prompt:
    """The row's question behind these questions and answers."""
    turns = [dict(turn) for turn in row.example.prompt]
    earlier = [
        turn
        for other in near
        for turn in ({"role": "user", "content": other.question}, {"role": "assistant", "content": other.answer})
    ]
    system = [turn for turn in turns if turn["role"] == "system"]
    rest = [turn for turn in turns if turn["role"] != "system"]
    return asked(view.encoder, at, [*system, *earlier, *rest], "behind neighbours")
