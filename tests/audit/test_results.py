"""The audit's record: what counts as the worst, and that nothing unknown slips into it."""

import pytest
from pydantic import ValidationError

from asu_lora.audit.results import AttackResult, AuditResult, Rate, Reading


def _audit(*recovered: float | None, more: tuple[AttackResult, ...] = ()) -> AuditResult:
    rate = Rate(value=0.5, low=0.4, high=0.6, rows=10)
    attacks = [
        AttackResult(attack=f"a{i}", kind="asking", readings=[Reading(figure="facts", candidate=rate, recovered=share)])
        for i, share in enumerate(recovered)
    ]
    return AuditResult(
        audited="adapter",
        names=["n"],
        precision="nf4",
        seed=0,
        rows=10,
        started="s",
        finished="f",
        attacks=[*attacks, *more],
    )


def test_the_worst_is_the_most_recovered_by_any_attack_that_could_tell():
    assert _audit(0.1, None, 0.3).worst() == 0.3
    assert _audit(None).worst() is None
    assert _audit().worst() is None


@pytest.mark.parametrize("kind", ["membership", "trace"])
def test_telling_rows_apart_is_no_knowledge_recovered(kind):
    rate = Rate(value=1.0, low=0.9, high=1.0, rows=10)
    told = AttackResult(attack=kind, kind=kind, readings=[Reading(figure="auc", candidate=rate, recovered=1.0)])
    both = _audit(0.2, more=(told,))
    assert both.worst() == 0.2 and both.strongest().attack == "a0"
    assert _audit(more=(told,)).worst() is None


def test_a_field_nobody_knows_is_refused():
    with pytest.raises(ValidationError):
        AuditResult.model_validate({**_audit().model_dump(), "question": "Who?"})
