"""A request whose audit brings too much back fails, and keeps its text; retried otherwise, it is trained anew."""

import shutil

import pytest

from asu_lora.errors import LedgerError, SettingError
from asu_lora.requests.deployment import deploy, look_at
from asu_lora.requests.forget_text import forget_text
from asu_lora.requests.key import ENVIRONMENT, new_key
from asu_lora.requests.ledger.states import TEXT_DESTROYED, TEXT_SEALED
from asu_lora.requests.results import ResultStore
from asu_lora.requests.runner.audit_policy import LIMIT_BEFORE_TEXT_GOES, AuditPolicy
from asu_lora.requests.runner.audit_step import audit_adapter
from asu_lora.requests.runner.behind import behind
from asu_lora.requests.runner.run import run
from tests.support.request_queue import finds, retry


def test_over_the_limit_a_request_fails_and_keeps_text_and_adapter(queue):
    queue.add("weak", "well")
    report = queue.run(finds(weak=0.4), forget_text=True, policy=AuditPolicy(fail_over=0.1))
    assert queue.states() == {"weak": "failed", "well": "audited"}
    assert queue.ledger.get("weak").text == TEXT_SEALED and queue.ledger.get("well").text == TEXT_DESTROYED
    assert "40% came back" in queue.ledger.get("weak").sentence and "weak" in queue.store.names()
    assert report.refused and [outcome.request for outcome in report.failed] == ["weak"]
    assert report.texts_gone == ["well"]
    with pytest.raises(LedgerError, match="needed to train it"):
        forget_text(queue.ledger, queue.store, "weak", unaudited=True)
    assert queue.ledger.verify().whole


def test_a_run_that_destroys_texts_has_a_limit_and_others_have_none(queue):
    queue.add("weak")
    assert queue.run(finds(weak=LIMIT_BEFORE_TEXT_GOES + 0.1), forget_text=True).refused
    retry(queue, "weak")
    report = queue.run(finds(weak=LIMIT_BEFORE_TEXT_GOES + 0.1))
    assert queue.states() == {"weak": "audited"} and not report.refused


def test_retried_with_the_same_settings_it_is_judged_again_and_with_others_trained_again(queue):
    queue.add("weak")
    strict, mild = AuditPolicy(fail_over=0.1), AuditPolicy(fail_over=0.5)
    queue.run(finds(weak=0.4), policy=strict)
    first = queue.store.get("weak").manifest
    assert not queue.run(finds(weak=0.4), policy=mild).outcomes, "a failed request waits for a person"

    retry(queue, "weak")
    [outcome] = queue.run(finds(weak=0.4), policy=strict).outcomes
    assert outcome.refused and not outcome.trained
    assert queue.store.get("weak").manifest.created == first.created

    retry(queue, "weak")
    [outcome] = queue.run(finds(), policy=strict, config={"lr": 3e-3}).outcomes
    assert outcome.state == "audited" and outcome.trained
    assert queue.store.get("weak").manifest.fingerprint != first.fingerprint
    assert queue.ledger.verify().whole


def test_what_a_killed_run_trained_anew_is_not_taken_for_the_refused_one(queue):
    queue.add("weak")
    strict = AuditPolicy(fail_over=0.1)
    queue.run(finds(weak=0.4), policy=strict)
    retry(queue, "weak")

    def killed(task):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        queue.run(killed, policy=strict, config={"lr": 3e-3})
    made = queue.store.get("weak").manifest
    [outcome] = queue.run(finds(), policy=strict, config={"lr": 3e-3}).outcomes
    assert outcome.state == "audited" and not outcome.trained
    assert queue.store.get("weak").manifest.created == made.created


def test_a_refused_adapter_is_not_published(queue, tmp_path):
    queue.add("weak", "well")
    address = f"file://{tmp_path / 'published'}"
    shop = queue.shop(finds(weak=0.4), policy=AuditPolicy(fail_over=0.1), results=address)
    run(shop)
    assert list(shop.results.names()) == ["well"]


def published(queue, tmp_path, audit=None, **settings):
    shop = queue.shop(audit, results=f"file://{tmp_path / 'published'}", **settings)
    return run(shop), list(shop.results.names())


def test_a_run_without_an_address_takes_a_refused_adapter_away_where_an_earlier_one_put_it(queue, tmp_path):
    queue.add("weak")
    assert published(queue, tmp_path)[1] == ["weak"]
    queue.run(finds(weak=0.4), policy=AuditPolicy(fail_over=0.1))
    assert published(queue, tmp_path)[1] == [] and queue.states() == {"weak": "failed"}


def test_a_refused_adapter_that_a_killed_run_left_published_is_taken_away_by_the_next(queue, tmp_path, monkeypatch):
    queue.add("weak")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(ResultStore, "remove", killed)
        published(queue, tmp_path, finds(weak=0.4), policy=AuditPolicy(fail_over=0.1))
    assert queue.states() == {"weak": "failed"}
    assert published(queue, tmp_path)[1] == []


def test_a_store_that_holds_a_refused_adapter_fetches_the_one_that_another_machine_trained(queue, tmp_path):
    queue.add("weak")
    strict = AuditPolicy(fail_over=0.1)
    published(queue, tmp_path, finds(weak=0.4), policy=strict)
    retry(queue, "weak")
    queue.store.root.rename(tmp_path / "first")
    shutil.copytree(tmp_path / "first", queue.store.root, ignore=shutil.ignore_patterns("weak"))
    published(queue, tmp_path, policy=strict, config={"lr": 3e-3}, audit=finds())
    made = queue.store.get("weak").manifest.fingerprint
    shutil.rmtree(queue.store.root / "weak")
    shutil.copytree(tmp_path / "first" / "weak", queue.store.root / "weak")  # the first machine's store again
    queue.add("well")
    report, _ = published(queue, tmp_path, policy=strict, audit=finds())
    assert report.follow_up.re_audited == ["weak", "well"]
    assert queue.store.get("weak").manifest.fingerprint == made


def test_a_second_audit_over_the_limit_is_told_and_keeps_the_text(queue):
    queue.add("first")
    queue.run(finds(), policy=AuditPolicy(fail_over=0.1))
    queue.add("second")
    report = queue.run(finds(first=0.4), forget_text=True, policy=AuditPolicy(fail_over=0.1))
    assert report.follow_up.over == {"first": "40% came back."} and report.refused
    assert queue.states() == {"first": "audited", "second": "audited"}
    assert queue.ledger.get("first").text == TEXT_SEALED and queue.ledger.get("first").sentence == "40% came back."
    [artefact] = look_at(queue.ledger, queue.store, ["first"])
    assert deploy(queue.ledger, [artefact]).over == {"first": "40% came back."}
    assert queue.ledger.get("first").sentence, "being served mends nothing"
    queue.run(finds(first=0.4), forget_text=True, policy=AuditPolicy(fail_over=0.1))
    assert queue.ledger.get("first").text == TEXT_SEALED
    queue.add("third")
    queue.run(finds(), policy=AuditPolicy(fail_over=0.1))
    assert queue.ledger.get("first").sentence is None


def test_the_real_audit_of_a_base_that_knows_and_an_adapter_that_was_hardly_trained(tmp_path, taught_base, monkeypatch):
    from tests.support.request_queue import Queue

    monkeypatch.setenv(ENVIRONMENT, new_key())
    queue = Queue(tmp_path, taught_base)
    queue.add("weak")
    [outcome] = queue.run(audit_adapter, forget_text=True, config={"lr": 1e-9}).outcomes
    assert outcome.refused and queue.ledger.get("weak").text == TEXT_SEALED, outcome
    assert "--fail-over 0.5 allows" in outcome.sentence and "requests retry" in outcome.sentence
    told = queue.ledger.history("weak", ["failed"])[-1].payload
    assert told["worst"] > 0.5 and told["limit"] == 0.5 and told["depth"] == "quick"


def test_an_adapter_that_ruins_what_is_kept_fails_and_the_share_is_that_of_an_evaluation(
    tmp_path, taught_base, monkeypatch
):
    from asu_lora.evaluation.evaluate import evaluate
    from asu_lora.models.adapter_stack import load
    from asu_lora.models.loading import load_base
    from asu_lora.studies.compare.questions import comparison_sets
    from tests.support.request_queue import Queue

    monkeypatch.setenv(ENVIRONMENT, new_key())
    queue = Queue(tmp_path, taught_base)
    queue.add("rough")
    ruin = {"objective": "ga", "retain_loss": "none", "lr": 3e-2, "epochs": 8}
    [outcome] = queue.run(audit_adapter, policy=AuditPolicy(fail_over=9, keep_at_least=0.9), config=ruin).outcomes
    assert outcome.refused and "less than --keep-at-least 0.9" in outcome.sentence, outcome
    kept = queue.ledger.history("rough", ["failed"])[-1].payload["kept"]
    assert f"What is kept has {kept:.0%}" in outcome.sentence

    base = load_base(str(taught_base), "fp32", "cpu")
    questions = comparison_sets(queue.shop().text("rough").request("rough"), most=40)[0]
    found = []
    for adapters in ([], ["rough"]):
        stack = load(base, adapters, queue.store.root)
        found.append(evaluate(stack, questions).summary()["sets"]["retain"]["probability"])
        stack.unload()
    assert kept == pytest.approx(found[1] / found[0], abs=2e-4)


def test_the_built_in_questions_are_no_measure_of_what_is_kept(queue):
    from dataclasses import replace

    from asu_lora.data.request import GENERAL
    from asu_lora.requests.runner.kept_share import kept_share

    queue.add("one")
    queue.run(finds())
    shop = queue.shop(finds())
    request = shop.text("one").request("one")
    assert kept_share(shop.audit_task(("one",), request)) > 0
    assert kept_share(shop.audit_task(("one",), replace(request, retain_source=GENERAL))) is None
    assert kept_share(shop.audit_task(("one",), replace(request, retain=()))) is None


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_to_keep_is_one(share):
    with pytest.raises(SettingError, match="from 0 to 1"):
        AuditPolicy(keep_at_least=share)


def test_a_request_that_is_refused_has_nobody_audited_again(queue):
    queue.add("well", "also")
    queue.run(finds(), policy=AuditPolicy(fail_over=0.1))
    queue.add("weak")
    report = queue.run(finds(weak=0.4), policy=AuditPolicy(fail_over=0.1))
    assert report.refused and report.follow_up.re_audited == []


def line(ledger, event, name, **payload):
    ledger.record(event, name, {"adapter": name} | payload)


def test_who_is_behind_follows_from_what_acts_today(ledger):
    for name in ("a", "b", "c"):
        ledger.record("received", name, {"due": "2999-01-01T00:00:00Z"})
        line(ledger, "queued", name)
    for event in ("trained", "audited"):
        line(ledger, event, "a")
    line(ledger, "trained", "b")
    assert behind(ledger) == ["a"], "b came"
    line(ledger, "failed", "b", refused="b")
    assert behind(ledger) == [], "it is gone again"
    line(ledger, "queued", "b")
    line(ledger, "adapter-removed", "b")
    assert behind(ledger) == [], "it acted no more"
    line(ledger, "trained", "c")
    line(ledger, "re-audited", "a")
    line(ledger, "withdrawn", "c")
    assert behind(ledger) == ["a"], "c acted in its last audit"
    line(ledger, "adapter-removed", "c")
    line(ledger, "re-audited", "a")
    line(ledger, "trained", "b")
    assert behind(ledger) == ["a"], "b came anew"
    line(ledger, "re-audited", "a")
    line(ledger, "audited", "b")
    assert behind(ledger) == ["b"], "a first audit is of it alone"
    line(ledger, "re-audited", "b")
    assert behind(ledger) == []


def test_one_that_was_served_before_any_audit_is_audited_by_the_next_run(queue):
    queue.add("served")
    assert queue.run(audit=None).unaudited == ["served"]
    queue.ledger.record("deployed", "served", {"artefact": "served", "hash": "0"})
    assert behind(queue.ledger) == ["served"]
    assert queue.run(finds(served=0.05), policy=AuditPolicy(fail_over=0.1)).follow_up.re_audited == ["served"]
    assert queue.ledger.get("served").audits == 1 and behind(queue.ledger) == []


@pytest.mark.parametrize("limit", [-0.1, float("nan"), float("inf")])
def test_a_limit_below_nothing_is_refused(limit):
    with pytest.raises(SettingError, match="0 or more"):
        AuditPolicy(fail_over=limit)
