"""An adapter that is taken away, by hand or by a withdrawal in the middle of an audit, stops no other request."""

from asu_lora.cli.requests.run_report import tell
from asu_lora.requests.ledger.states import RE_AUDITED
from asu_lora.requests.runner.audit_step import audit_adapter
from asu_lora.requests.runner.behind import behind
from asu_lora.requests.runner.run import run
from asu_lora.requests.withdrawal import withdraw
from tests.support.request_queue import asked_directly, finds, retry


def test_a_trained_request_whose_adapter_is_gone_fails_by_itself_and_is_trained_again(queue):
    queue.add("a", "b")
    queue.run()
    queue.store.remove("a")
    report = queue.run(finds())
    assert queue.states() == {"a": "failed", "b": "audited"}
    assert "not in the store any more" in report.failed[0].sentence and "retry" in report.failed[0].sentence
    retry(queue, "a")
    assert queue.run(finds()).outcomes[0].trained and queue.states()["a"] == "audited"
    assert queue.ledger.verify().whole


def test_with_an_address_a_trained_request_may_lie_elsewhere_and_waits(queue, tmp_path):
    queue.add("a", "b")
    queue.run()
    queue.store.root.joinpath("a").rename(tmp_path / "in another store")
    shop = queue.shop(finds(), results=f"file://{tmp_path / 'published'}", re_audit=False)
    report = run(shop)
    assert (
        queue.states() == {"a": "trained", "b": "audited"} and "run where it was trained" in report.outcomes[0].sentence
    )


def test_an_audited_request_whose_adapter_is_gone_is_named_and_the_others_are_audited_again(queue, capsys):
    queue.add("a", "b", "c")
    queue.run(finds(), re_audit=False)
    queue.store.remove("a")
    report = queue.run(audit_adapter, consolidate=2)
    assert report.follow_up.re_audited == ["b", "c"] and report.follow_up.combined == {"combined-001": 2}
    assert report.without_adapter == ["a"] and "not in the store" in report.follow_up.not_re_audited["a"]
    tell(report, queue.shop())
    assert "Their adapters are not in the store: a; put them back" in capsys.readouterr().out


def test_with_an_address_one_that_is_at_neither_place_ends_no_run_and_the_others_are_audited_again(queue):
    address = f"file://{queue.root / 'published'}"
    queue.add("a", "b", "c")
    queue.run(finds(), results=address, re_audit=False)
    queue.store.remove("a")
    queue.shop(results=address).results.remove("a")
    queue.store.remove("b")  # this one is fetched
    for again in (["b", "c"], []):
        report = queue.run(asked_directly(), results=address, consolidate=2)
        assert report.follow_up.re_audited == again and report.without_adapter == ["a"]
        assert "neither in the store nor at" in report.follow_up.not_re_audited["a"]
    assert queue.store.names() == ["b", "c", "combined-001"]


def test_a_request_that_is_withdrawn_while_it_is_audited_ends_no_run(queue):
    def audit(task):
        if task.adapters[-1] == "a":
            withdraw(queue.ledger, queue.store, "a")
        return asked_directly()(task)

    queue.add("a", "b")
    report = queue.run(audit)
    assert [outcome.state for outcome in report.outcomes] == ["busy", "audited"]
    assert queue.states() == {"a": "withdrawn", "b": "audited"} and queue.ledger.verify().whole


def test_what_came_or_went_during_a_second_audit_makes_it_wait_for_another(queue):
    def audit(task):
        if task.adapters == ("b", "c", "a"):
            withdraw(queue.ledger, queue.store, "b")
        if task.adapters == ("a", "c"):
            queue.add("d")
            queue.run()  # another runner
        return asked_directly()(task) if "b" in task.adapters and len(task.adapters) > 1 else {"worst": 0.0}

    queue.add("a", "b", "c")
    queue.run(finds(), re_audit=False)
    report = queue.run(audit)
    assert "taken away meanwhile" in report.follow_up.not_re_audited["a"]
    assert report.follow_up.re_audited == ["c"]
    assert queue.ledger.history("c", [RE_AUDITED])[-1].payload["under"] == 2
    assert sorted(behind(queue.ledger)) == ["a", "c"], "d came while c was audited"
