"""--fail-over: what passes, what doesn't, and what can't be held against a limit."""

import pytest

from asu_lora.audit.gate import check_gate, gate
from asu_lora.audit.results import AttackResult, Reading, Untried
from asu_lora.audit.settings import AuditSettings
from asu_lora.errors import SettingError
from tests.support.audits import audit, rate

ALL = AttackResult(
    attack="membership", kind="membership", readings=[Reading(figure="auc", candidate=rate(1.0), recovered=1.0)]
)


def asked(name: str, recovered: float | None) -> AttackResult:
    return AttackResult(
        attack=name, kind="asking", readings=[Reading(figure="facts", candidate=rate(0.5), recovered=recovered)]
    )


def test_every_attack_over_the_limit_is_named_the_strongest_first():
    found = gate(audit(found=[asked("direct", 0.2), asked("prefix", 0.4), asked("paraphrases", 0.1), ALL]), 0.1)
    assert not found.passed
    assert found.says == "The attack prefix recovered 40%, more than --fail-over 0.1 allows. So did direct (20%)."


def test_rows_told_apart_exceed_no_limit_and_the_sentence_says_what_does_count():
    found = gate(audit(found=[asked("direct", 0.1), asked("differencing", None), ALL]), 0.1)
    assert found.passed and "at most 10% came back, in 1 of 2 attacks on the knowledge" in found.says


def test_what_no_attack_could_tell_passes_and_is_said_to_prove_nothing():
    found = gate(audit(found=[asked("direct", None), ALL]), 0.1)
    assert found.passed and "proves nothing" in found.says


def test_a_limit_that_nothing_was_held_against_is_an_error_and_no_pass():
    spent = Untried(attack="direct", reason="The budget of 1 seconds was spent before it.")
    with pytest.raises(SettingError, match="no attack on the knowledge was made .The budget of 1 seconds"):
        gate(audit(found=[ALL], untried=[spent]), 0.1)


def test_a_limit_that_the_chosen_attacks_can_t_exceed_is_refused_before_they_begin():
    with pytest.raises(SettingError, match="membership, trace asks for none"):
        check_gate(AuditSettings(("membership", "trace")))
    check_gate(AuditSettings(("membership", "direct")))
    check_gate(AuditSettings())
