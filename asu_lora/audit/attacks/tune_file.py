"""Fine-tuning on a user's own file: what his customers will do to the model."""

from collections.abc import Sequence

from asu_lora.audit.session import AuditRow, Session
from asu_lora.audit.tuned_attack import TunedAttack
from asu_lora.data.examples import Example


class TuneFile(TunedAttack):
    """The rows of ``--tune-on``."""

    name = "tune_file"
    says = "fine-tuned on your own file (--tune-on)"

    def untried(self, session: Session) -> str | None:
        return None if session.inputs.tune_on else "No file to tune on was given (--tune-on)."

    def material(self, session: Session, rows: Sequence[AuditRow]) -> list[Example]:
        return session.inputs.tune_on
