"""Which tokens of an answer an attack that looks inside reads its facts at."""

from asu_lora.audit.models import View
from asu_lora.audit.session import AuditRow
from asu_lora.data.encoding import Encoded
from asu_lora.data.token_classes import TokenClass, token_classes


def factual_tokens(view: View, item: Encoded, row: AuditRow) -> list[bool]:
    """Whether each answer token of a row is factual; all are, where its facts are no factual tokens of their own."""
    classes = token_classes(item, row.example, view.encoder.tokenizer)
    facts = [kind == TokenClass.FACTUAL for kind in classes]
    return facts if any(facts) else [True] * len(facts)
