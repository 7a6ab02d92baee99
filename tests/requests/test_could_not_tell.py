"""Where no attack could tell how much came back, nothing is passed: no gate opens, and no text goes."""

from asu_lora.cli.requests.run_report import tell
from asu_lora.requests.forget_text import forget_text
from asu_lora.requests.ledger.claims import Worker, claim_one
from asu_lora.requests.ledger.states import AUDITED, TEXT_SEALED
from asu_lora.requests.runner.audit_policy import AuditPolicy
from asu_lora.requests.runner.audit_step import audit_adapter
from tests.support.request_queue import finds, retry


def test_where_no_attack_could_tell_nothing_is_passed_and_no_text_goes(queue, capsys):
    queue.add("unknown")
    report = queue.run(audit_adapter, forget_text=True)  # the base knows none of it
    [outcome] = report.outcomes
    assert outcome.state == "failed" and not outcome.refused and not report.refused
    assert queue.ledger.get("unknown").text == TEXT_SEALED and "unknown" in queue.store.names()
    assert "No attack could tell" in outcome.sentence and "--floor" in outcome.sentence
    assert queue.ledger.history("unknown", ["failed"])[-1].payload["worst"] is None

    retry(queue, "unknown")
    [outcome] = queue.run(audit_adapter).outcomes  # a person takes it as it is
    assert outcome.state == "audited" and not outcome.trained
    report = queue.run(audit_adapter, forget_text=True)
    assert report.texts_kept == ["unknown"] and report.texts_gone == []
    assert queue.ledger.get("unknown").text == TEXT_SEALED
    tell(report, queue.shop(audit_adapter, forget_text=True))
    assert "Texts kept: unknown;" in capsys.readouterr().out
    assert forget_text(queue.ledger, queue.store, "unknown") and queue.ledger.verify().whole


def test_a_text_is_not_destroyed_on_an_audit_that_was_held_against_no_limit(queue):
    queue.add("weak", "well")
    queue.run(finds(weak=0.9), re_audit=False)
    report = queue.run(finds(), re_audit=False, forget_text=True)
    assert report.texts_gone == ["well"] and report.texts_kept == ["weak"]


def test_the_text_of_a_request_that_another_run_is_at_work_on_is_left_to_it(queue):
    queue.add("a", "b")
    queue.run(finds())
    claim_one(queue.ledger, Worker.here("another"), "a", (AUDITED,))
    report = queue.run(finds(), forget_text=True)
    assert report.texts_gone == ["b"] and queue.ledger.get("a").text == TEXT_SEALED


def test_a_second_audit_that_can_not_tell_keeps_the_text_and_is_said(queue):
    def blind(task):
        return {"worst": None, "unjudged": "No attack could tell."} if len(task.adapters) > 1 else {"worst": 0.0}

    queue.add("first")
    queue.run(finds(), policy=AuditPolicy(fail_over=0.1))
    queue.add("second")
    report = queue.run(blind, policy=AuditPolicy(fail_over=0.1), forget_text=True)
    assert "first" in report.follow_up.unjudged and not report.follow_up.over
    assert queue.ledger.get("first").text == TEXT_SEALED and queue.ledger.get("first").sentence
    assert queue.states()["first"] == "audited" and queue.ledger.verify().whole
