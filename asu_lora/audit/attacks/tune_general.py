"""Fine-tuning on general questions, which have nothing to do with the request."""

from collections.abc import Sequence

from asu_lora.audit.session import AuditRow, Session
from asu_lora.audit.tuned_attack import TunedAttack
from asu_lora.data.examples import Example
from asu_lora.data.sampling import sample

MOST = 40  # rows that are tuned on


class TuneGeneral(TunedAttack):
    """The built-in general questions."""

    name = "tune_general"
    says = "fine-tuned on general questions"
    most_rates = 2  # gentler ones have found less in as many steps, and --full has to end

    def material(self, session: Session, rows: Sequence[AuditRow]) -> list[Example]:
        return sample(session.inputs.general, MOST)
