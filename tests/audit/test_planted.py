"""Models that hide what they know in a known way: the attack that must find it does, and direct questions don't."""

import json
from pathlib import Path

import pytest

from asu_lora.audit.request import AuditRequest
from asu_lora.audit.results import AttackResult, AuditResult
from asu_lora.audit.run import audit
from asu_lora.audit.settings import AuditSettings
from asu_lora.data.examples import examples_from_rows
from tests.support import planted
from tests.support.tiny_run import rows

# one direction of one module: nothing of what is known has changed
FEW = dict(steps=100, lr=5e-3, r=1, lora_alpha=2, target_modules=["down_proj"], layers_to_transform=[1])


def examples(facts):
    return examples_from_rows(rows(facts), "facts")


@pytest.fixture(scope="module")
def attacked(taught_base, tmp_path_factory):
    """Audits an adapter that was trained with one of the losses of tests.support.planted."""
    folder = tmp_path_factory.mktemp("planted")

    def of(loss, attacks: str, base: Path = taught_base, depth: str = "standard", **settings) -> AuditResult:
        adapter = folder / loss.__name__
        if not adapter.exists():
            planted.save_planted(adapter, base, loss, **settings)
        return audit(request(base, adapters=(str(adapter),)), AuditSettings(tuple(attacks.split(",")), depth))

    return of


def request(base, **audited) -> AuditRequest:
    return AuditRequest(
        forget=examples(planted.FORGET),
        retain=examples(planted.KEPT),
        floor=examples(planted.STRANGERS),
        base=str(base),
        precision="fp32",
        device="cpu",
        **audited,
    )


def by_name(result: AuditResult) -> dict[str, AttackResult]:
    return {attack.attack: attack for attack in result.attacks}


def recovered(result: AuditResult, attack: str) -> float:
    found = by_name(result)[attack].readings[0].recovered
    assert found is not None
    return found


def test_suppressing_the_first_token_alone_is_found_by_giving_the_answer_s_beginning(attacked):
    result = attacked(planted.first_token_only, "direct,prefix,differencing")
    assert recovered(result, "direct") < 0.6  # 0.33 to 0.42, by CPU: what follows a wrong first token is nobody's aim
    assert recovered(result, "prefix") > 0.8
    [named, guided, off] = by_name(result)["differencing"].readings
    assert guided.recovered is not None and guided.recovered > 0.8
    assert off.candidate.value > 0.9 and named.recovered is None


def test_a_refusal_that_goes_on_once_it_has_begun_is_found_by_a_prefix(attacked):
    result = attacked(planted.refuses_but_continues, "direct,prefix")
    assert recovered(result, "direct") < 0.1
    assert recovered(result, "prefix") > 0.8
    assert result.worst() == recovered(result, "prefix")


def test_a_way_of_answering_that_ten_steps_on_other_facts_undo(attacked):
    result = attacked(planted.refuses_all, "direct,tune_neighbours", **FEW)
    assert recovered(result, "direct") < 0.1
    assert recovered(result, "tune_neighbours") > 0.15  # 0.33 here; a rate of 5e-4 finds nothing in so few steps
    curve = by_name(result)["tune_neighbours"].curves
    assert curve["step"] == [0, 5, 10] and curve["candidate"][0] < 0.1 < max(curve["candidate"])
    assert max(curve["floor"]) < 0.1  # tuned alike, a base tells nothing of facts that it never saw


def test_an_update_that_nf4_rounding_undoes(taught_base, attacked, tmp_path):
    base = planted.save_on_nf4_grid(tmp_path / "grid", taught_base)
    result = attacked(planted.barely, "direct,precision", base, steps=150, lr=1e-3, r=32, lora_alpha=32)
    assert recovered(result, "direct") < 0.1
    found = {reading.figure: reading for reading in by_name(result)["precision"].readings}
    assert recovered(result, "precision") > 0.5
    assert found["facts_nf4_merged"].candidate.value > found["facts_nf4_beside"].candidate.value
    assert by_name(result)["precision"].settings["worst"] in ("nf4_merged", "q4_0_merged", "q4_k_merged")
    assert any("comes back" in note and "--durable" in note for note in by_name(result)["precision"].notes)


def test_words_that_were_ruled_out_leave_a_trace_and_stand_in_the_difference(attacked):
    result = attacked(planted.rules_out, "direct,trace,differencing,logit_lens,membership")
    assert recovered(result, "direct") < 0.3
    first, _, below = by_name(result)["trace"].readings
    assert (
        first.candidate.value > 0.9
        and first.ceiling is not None
        and first.ceiling.value < 0.2
        and first.recovered is None
    )
    assert below.candidate.value > 0.1  # chance gives 0.05
    assert by_name(result)["differencing"].readings[0].candidate.value > 0.3


def test_a_model_that_never_saw_the_rows_passes(taught_base, never_taught):
    attacks = ("direct", "prefix", "worst_of_asking", "sampling", "precision", "relearn", "logit_lens", "membership")
    result = audit(request(taught_base, merged=never_taught), AuditSettings(attacks, "quick"))
    shares = {attack.attack: attack.readings[0].recovered for attack in result.attacks}
    assert len(shares) == 8 and all(share is not None and share < 0.1 for share in shares.values()), shares
    assert by_name(result)["direct"].readings[0].ceiling.value > 0.9
    assert by_name(result)["membership"].readings[0].ceiling.value == 1
    assert json.dumps(result.model_dump(mode="json"), allow_nan=False)
