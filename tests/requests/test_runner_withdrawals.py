"""Requests that are withdrawn, adapters that become one, and earlier requests that are audited again."""

import pytest

from asu_lora.progress import Progress
from asu_lora.requests.forget_text import forget_text
from asu_lora.requests.key import ENVIRONMENT, new_key
from asu_lora.requests.runner.run import Listener
from asu_lora.requests.withdrawal import withdraw
from tests.support.request_queue import Queue, counting_audit


@pytest.fixture
def queue(tmp_path, tiny_base, monkeypatch) -> Queue:
    monkeypatch.setenv(ENVIRONMENT, new_key())
    return Queue(tmp_path, tiny_base)


def test_earlier_requests_are_audited_again_under_all_adapters_after_others_came_or_went(queue):
    queue.add("a", "b")
    seen = []
    queue.run(counting_audit(seen))
    # b came after a was audited
    assert seen == [("a",), ("b",), ("b", "a")]
    seen.clear()
    queue.run(counting_audit(seen))
    assert seen == []
    queue.add("c")
    report = queue.run(counting_audit(seen))
    assert seen[0] == ("c",) and sorted(seen[1:]) == [("a", "c", "b"), ("b", "c", "a")]
    assert sorted(report.follow_up.re_audited) == ["a", "b"]
    withdraw(queue.ledger, queue.store, "b")
    forget_text(queue.ledger, queue.store, "a")
    seen.clear()
    report = queue.run(counting_audit(seen))
    assert seen == [("a", "c")] and report.follow_up.not_re_audited == {"a": "its text is destroyed"}


def test_every_k_adapters_become_one_and_a_withdrawal_builds_it_anew(queue):
    queue.add("a", "b", "c", "d", "e")
    report = queue.run(consolidate=2)
    assert report.follow_up.combined == {"combined-001": 2, "combined-002": 2}
    assert queue.run(consolidate=2).follow_up.combined == {}
    done = withdraw(queue.ledger, queue.store, "a")
    assert done.adapter == "a" and done.inside == ["combined-001"]
    queue.add("f", "g")
    report = queue.run(consolidate=2)
    held = {line.payload["adapter"]: line.payload["requests"] for line in queue.ledger.consolidated()}
    assert report.follow_up.stale == ["combined-001"]
    assert not any("a" in requests for name, requests in held.items() if name != "combined-001")
    current = [name for name in held if name != "combined-001"]
    assert sorted(r for name in current for r in held[name]) == sorted({r for name in current for r in held[name]})


def test_a_withdrawal_that_was_cut_off_is_finished_by_the_next_run(queue):
    queue.add("a", "b")
    queue.run()
    queue.ledger.record("withdrawn", "a", {"adapter": "a"})  # and killed before the adapter went
    assert queue.run().withdrawn == ["a"]
    assert queue.store.names() == ["b"] and queue.events("a")[-1] == "adapter-removed"
    assert queue.run().withdrawn == []


def test_what_is_withdrawn_while_it_is_trained_is_not_in_the_store_afterwards(queue, monkeypatch):
    queue.add("a", "b")

    class Withdrawing(Listener):
        def progress(self):
            class At(Progress):
                def stage(inner, name, total=None):
                    if name == "Writing the adapter" and queue.states()["a"] == "training":
                        withdraw(queue.ledger, queue.store, "a")

            return At()

    report = queue.run(listener=Withdrawing())
    assert queue.states() == {"a": "withdrawn", "b": "trained"} and queue.store.names() == ["b"]
    assert report.outcomes[0].state == "busy"
