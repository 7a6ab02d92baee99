"""Fine-tuning on the request's neighbours alone: harmless rows, none of which was forgotten."""

from collections.abc import Sequence

from asu_lora.audit.session import AuditRow, Session
from asu_lora.audit.tuned_attack import TunedAttack
from asu_lora.data.examples import Example
from asu_lora.data.sampling import sample

MOST = 40  # rows that are tuned on


class TuneNeighbours(TunedAttack):
    """The kept rows that the person gave."""

    name = "tune_neighbours"
    says = "fine-tuned on kept rows of the same kind"
    most_rates = 2  # gentler ones have found less in as many steps, and --full has to end

    def untried(self, session: Session) -> str | None:
        if not session.inputs.retain_given or not session.inputs.retain:
            return "The request's neighbours aren't known: name kept rows with --retain."
        return None

    def material(self, session: Session, rows: Sequence[AuditRow]) -> list[Example]:
        return sample(session.inputs.retain, MOST)
