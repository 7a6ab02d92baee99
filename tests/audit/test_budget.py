"""An audit in a budget: the telling attacks first, an end in time, what was left out by name, and going on with that."""

import json
import os
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from asu_lora.audit.certificate.limits import limits
from asu_lora.audit.certificate.record import Done
from asu_lora.audit.deadline import Deadline, OutOfTime
from asu_lora.audit.gate import gate
from asu_lora.audit.parts import FOLDER, KEPT_DAYS, parts_of
from asu_lora.audit.registry import chosen
from asu_lora.audit.request import AuditRequest
from asu_lora.audit.run import audit, open_models
from asu_lora.audit.session import Session
from asu_lora.audit.settings import AuditSettings
from asu_lora.models.loading import load_base
from tests.support.audits import figures
from tests.support.listener import Listener
from tests.support.lora_folders import give_manifest, save_lora
from tests.support.planted import FORGET, KEPT, STRANGERS
from tests.support.tiny_run import rows

NAMES = ("direct", "prefix", "insisting", "worst_of_asking", "relearn", "membership")
WHOLE = AuditSettings(NAMES, "quick")
BUDGET = replace(WHOLE, budget_s=60)


class Slow(Listener):
    """A machine on which one attack takes an hour: the deadline's clock jumps when it begins."""

    def __init__(self, attack, monkeypatch):
        super().__init__()
        self.attack, self.now = attack, 0.0
        monkeypatch.setattr("asu_lora.audit.deadline.time", SimpleNamespace(monotonic=lambda: self.now))

    def stage(self, name, total=None):
        super().stage(name, total)
        if name.startswith(f"{self.attack}:"):
            self.now += 3600.0


@pytest.fixture
def asked(taught_base, tmp_path):
    for name, facts in (("forget", FORGET), ("keep", KEPT), ("floor", STRANGERS)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows(facts))))
    store = tmp_path / "store"
    for seed, name in enumerate(("anna", "bo"), start=1):
        give_manifest(save_lora(taught_base, store / name, seed, size=0.01), taught_base)
    return AuditRequest(
        forget=tmp_path / "forget.jsonl",
        retain=tmp_path / "keep.jsonl",
        floor=tmp_path / "floor.jsonl",
        base=str(taught_base),
        adapters=("anna",),
        store=store,
        precision="fp32",
        device="cpu",
    )


def begun(listener):
    return {stage.partition(":")[0] for stage in listener.stages if ":" in stage}


def ways(result):
    [joined] = [attack for attack in result.attacks if attack.attack == "worst_of_asking"]
    return joined.settings["ways"]


def reasons(result):
    return {untried.attack: untried.reason for untried in result.untried if untried.out_of_time}


def test_what_tells_most_for_its_time_comes_first():
    order = [attack.name for attack in chosen(None, "full")]
    assert order[:3] == ["direct", "prefix", "precision"]
    knowing = [name for name in order if name not in ("membership", "trace", "retrained")]
    assert (
        knowing.index("logit_lens") < knowing.index("sampling") < knowing.index("relearn") < knowing.index("patching")
    )
    asking = [order.index(attack.name) for attack in chosen(("asking",), "full")]
    assert order[max(asking)] == "worst_of_asking"


def test_an_attack_that_works_when_the_budget_is_spent_is_stopped_and_named(asked, monkeypatch):
    listener = Slow("insisting", monkeypatch)
    result = audit(asked, BUDGET, listener)
    assert [attack.attack for attack in result.attacks] == ["direct", "prefix", "worst_of_asking"]
    assert reasons(result) == {
        "insisting": "The budget of 60 seconds was spent while it was made.",
        "membership": "The budget of 60 seconds was spent before it.",
        "relearn": "The budget of 60 seconds was spent before it.",
    }
    assert begun(listener) == {"direct", "prefix", "insisting"}
    assert any(note.startswith("3 attacks were left out for want of time") for note in listener.notes)
    [about] = [
        limit.text for limit in limits(result, Done(audited="adapter"), ["fp32"], ["en"]) if limit.about == "Scope"
    ]
    assert "Of these for want of time alone: insisting, membership, relearn." in about
    assert "Left out for want of time: insisting, membership, relearn." in gate(result, 1.5).says


def test_without_the_budget_those_left_out_are_made_and_no_other(asked, monkeypatch):
    whole = audit(asked, WHOLE)
    with monkeypatch.context() as patch:
        first = audit(asked, BUDGET, Slow("insisting", patch))
        assert ways(first) == 2
        again = audit(asked, BUDGET, Slow("relearn", patch))
    assert set(reasons(again)) == {"relearn"} and ways(again) == 3
    listener = Listener()
    result = audit(asked, WHOLE, listener)
    assert begun(listener) == {"relearn"}
    assert figures(result) == figures(whole) and result.started == first.started
    assert not list(asked.store.glob(f"{FOLDER}/*"))


def test_training_is_stopped_between_two_steps_and_the_base_is_plain_afterwards(asked, monkeypatch):
    loaded = load_base(asked.base, "fp32", "cpu")
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    result = audit(asked, replace(BUDGET, attacks=("relearn",)), Slow("relearn", monkeypatch), loaded=loaded)
    assert set(reasons(result)) == {"relearn"}
    after = loaded.model.state_dict()
    assert after.keys() == before.keys() and all(bool((after[name] == value).all()) for name, value in before.items())


def test_a_deadline_hears_and_passes_on_and_without_a_budget_never_ends(monkeypatch):
    listener = Slow("x", monkeypatch)
    limited, endless = Deadline(listener, 10), Deadline(listener)
    limited.stage("x: a", 3)
    endless.advance(2)
    endless.stage("y: b")
    for late in (lambda: limited.advance(0), lambda: limited.stage("y: b")):
        with pytest.raises(OutOfTime):
            late()
    limited.note("said")
    limited.close()
    assert listener.stages == ["x: a", "y: b"] and listener.notes == ["said"] and listener.closed
    assert limited.passed and not endless.passed


def folder(asked):
    with open_models(asked) as models:
        return parts_of(asked, Session(asked.read(), models, WHOLE)).folder


def test_a_control_is_not_the_second_adapter_of_a_stack(asked):
    assert folder(replace(asked, control="bo")) != folder(replace(asked, adapters=("anna", "bo")))


def test_records_that_are_not_there_are_made_again(asked, monkeypatch, tmp_path):
    settings = replace(BUDGET, attacks=("direct", "prefix", "insisting"))
    audit(replace(asked, records=tmp_path / "one"), settings, Slow("insisting", monkeypatch))
    (tmp_path / "one" / "direct.jsonl").unlink()
    listener = Listener()
    audit(replace(asked, records=tmp_path / "one"), replace(settings, budget_s=None), listener)
    assert begun(listener) == {"direct", "insisting"} and (tmp_path / "one" / "direct.jsonl").is_file()


def test_what_nobody_went_on_with_for_a_month_is_dropped(asked, monkeypatch):
    audit(asked, BUDGET, Slow("insisting", monkeypatch))
    [left] = (asked.store / FOLDER).iterdir()
    old = time.time() - (KEPT_DAYS + 1) * 86_400
    os.utime(left, (old, old))
    listener = Listener()
    audit(asked, replace(WHOLE, attacks=("direct",)), listener)
    assert begun(listener) == {"direct"} and not left.exists()
