"""The audit's record: what counts as the worst, and that nothing unknown slips into it."""

import pytest
from pydantic import ValidationError

from asu_lora.audit.results import AttackResult, AuditResult, Rate, Reading


def _audit(*recovered: float | None) -> AuditResult:
    rate = Rate(value=0.5, low=0.4, high=0.6, rows=10)
    attacks = [
        AttackResult(attack=f"a{i}", kind="asking", readings=[Reading(figure="facts", candidate=rate, recovered=share)])
        for i, share in enumerate(recovered)
    ]
    return AuditResult(
        audited="adapter", names=["n"], precision="nf4", seed=0, rows=10, started="s", finished="f", attacks=attacks
    )


def test_the_worst_is_the_most_recovered_by_any_attack_that_could_tell():
    assert _audit(0.1, None, 0.3).worst() == 0.3
    assert _audit(None).worst() is None
    assert _audit().worst() is None


def test_a_field_nobody_knows_is_refused():
    with pytest.raises(ValidationError):
        AuditResult.model_validate({**_audit().model_dump(), "question": "Who?"})
