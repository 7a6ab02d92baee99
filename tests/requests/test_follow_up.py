"""What follows a training: audits, texts that go, adapters combined, withdrawals finished."""

import json
import shutil

import pytest

from asu_lora.cli.requests.run_report import tell
from asu_lora.errors import AsuLoraError, LedgerError, SettingError, TrainingError
from asu_lora.requests.forget_text import forget_text
from asu_lora.requests.intake import hand_in_again
from asu_lora.requests.runner.audit_policy import AuditPolicy
from asu_lora.requests.withdrawal import withdraw
from tests.support.request_queue import counting_audit
from tests.support.tiny_run import FACTS


def test_the_text_goes_with_the_audit_and_no_word_of_it_is_left_anywhere(queue):
    queue.add("a", "b")
    report = queue.run(counting_audit([]), forget_text=True, re_audit=False)
    assert [o.state for o in report.outcomes] == ["audited"] * 2 and sorted(report.texts_gone) == ["a", "b"]
    words = [word.encode() for name, does in FACTS for word in (name, does)]
    for file in queue.root.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not [word for word in words if word in content], file
    assert {r.text for r in queue.ledger.requests()} == {"text-destroyed"}
    queue.ledger.record("withdrawn", "a", {"adapter": "a"})
    with pytest.raises(AsuLoraError, match="withdrawn; from there it can't become queued|only one that failed"):
        hand_in_again(queue.ledger, queue.shop().vault, "a")


def test_a_text_is_kept_until_the_audit_and_checkpoints_go_with_it(queue):
    queue.add("a")
    queue.run(forget_text=True)  # nothing here audits
    assert queue.ledger.get("a").text == "sealed"
    with pytest.raises(AsuLoraError, match="not audited"):
        forget_text(queue.ledger, queue.store, "a")
    (queue.store.root / ".runs" / "a" / "checkpoint-1").mkdir(parents=True)
    assert forget_text(queue.ledger, queue.store, "a", unaudited=True)
    assert not (queue.store.root / ".runs").exists()


def test_with_second_audits_a_text_waits_for_its_own_and_stays_where_that_finds_too_much(queue):
    def audit(task):
        over = {"over": "Too much."} if task.adapters == ("a", "b") else {}
        return {"worst": 0.1} | over

    queue.add("a", "b")
    report = queue.run(audit, forget_text=True)
    assert report.texts_gone == ["a"] and report.texts_kept == ["b"] and set(report.follow_up.over) == {"b"}
    assert {outcome.request: outcome.text_gone for outcome in report.outcomes} == {"a": True, "b": False}
    assert queue.ledger.get("b").text == "sealed"


def test_an_audit_that_fails_leaves_the_adapter_trained_and_is_tried_by_the_next_run(queue):
    def failing(task):
        raise TrainingError("The audit of 'Anna Birk' can't be made.")

    queue.add("a", "b")
    report = queue.run(failing)
    assert queue.states() == {"a": "trained", "b": "trained"} and len(report.outcomes) == 2
    assert queue.ledger.history("a", ["audit-failed"])[0].payload == {"sentence": "The audit of '...' can't be made."}
    seen = []
    report = queue.run(counting_audit(seen), re_audit=False)
    assert seen == [("a",), ("b",)] and not any(outcome.trained for outcome in report.outcomes)


def test_each_is_audited_under_all_adapters_after_others_came_or_went_the_last_one_too(queue):
    queue.add("a", "b")
    seen = []
    queue.run(counting_audit(seen))
    # b came after a was audited, and was itself audited alone
    assert seen == [("a",), ("b",), ("b", "a"), ("a", "b")]
    seen.clear()
    queue.run(counting_audit(seen))
    assert seen == []
    queue.add("c")
    report = queue.run(counting_audit(seen))
    assert seen[0] == ("c",) and sorted(seen[1:]) == [("a", "b", "c"), ("a", "c", "b"), ("b", "c", "a")]
    assert sorted(report.follow_up.re_audited) == ["a", "b", "c"]
    withdraw(queue.ledger, queue.store, "b")
    forget_text(queue.ledger, queue.store, "a")
    seen.clear()
    report = queue.run(counting_audit(seen))
    assert seen == [("a", "c")] and report.follow_up.not_re_audited == {"a": "its text is destroyed"}


def test_every_k_adapters_become_one_and_a_withdrawal_builds_it_anew(queue, capsys):
    queue.add("a", "b", "c", "d")
    report = queue.run(consolidate=3)
    assert report.follow_up.combined == {"combined-001": 3}  # and one waits for two more
    assert report.follow_up.ungrouped == ["d"] and queue.run().follow_up.ungrouped == []  # told where it is asked for
    tell(report, queue.shop())
    assert "In no combined adapter yet, so serve their own beside it: d.\n" in capsys.readouterr().out
    assert queue.run(consolidate=3).follow_up.combined == {}
    done = withdraw(queue.ledger, queue.store, "a")
    assert done.adapter == "a" and done.inside == ["combined-001"]
    report = queue.run(consolidate=3)
    assert report.follow_up.stale == ["combined-001"] and report.follow_up.combined == {"combined-002": 2}
    assert queue.ledger.consolidated()[-1].payload["requests"] == ["b", "c"]
    assert queue.run(consolidate=3).follow_up.stale == []
    queue.add("e", "f")
    assert queue.run(consolidate=3).follow_up.ungrouped == []  # the last group is whole


def test_a_withdrawal_that_was_cut_off_is_finished_by_the_next_run(queue):
    queue.add("a", "b")
    queue.run()
    queue.ledger.record("withdrawn", "a", {"adapter": "a"})  # and killed before the adapter went
    assert queue.run().withdrawn == ["a"]
    assert queue.store.names() == ["b"] and queue.events("a")[-1] == "adapter-removed"
    assert queue.run().withdrawn == []


def leave_checkpoint(queue, name, request="its own"):
    """What a run of a request leaves that is killed while it trains it."""
    folder = queue.store.root / ".runs" / name
    (folder / "checkpoint-3").mkdir(parents=True)
    (folder / "checkpoint-3" / "adapter_model.safetensors").write_bytes(b"made of its text")
    (folder / "run.json").write_text(json.dumps({"request": queue.store.keyed(request)}))
    return folder


def test_checkpoints_that_a_killed_run_left_of_a_withdrawn_request_go_with_the_next_run(queue):
    queue.add("a", "b")
    for name in "ab":
        queue.ledger.record("training", name, {"request": queue.store.keyed("its own")})
    queue.ledger.record("withdrawn", "a", {"adapter": "a"})  # and killed before the checkpoints went
    withdraw(queue.ledger, queue.store, "b")
    ours = [leave_checkpoint(queue, name) for name in "ab"]  # b's by its runner, killed before it heard of it
    assert queue.run().withdrawn == ["a", "b"] and not any(folder.exists() for folder in ours)
    another = leave_checkpoint(queue, "a", "of a forget run that was called so since")
    assert queue.run().withdrawn == [] and another.exists()


def test_a_second_withdrawal_finishes_the_first_and_is_refused_once_nothing_is_left(queue):
    queue.add("a")
    queue.ledger.record("training", "a", {"request": queue.store.keyed("its own")})
    queue.ledger.record("withdrawn", "a", {"adapter": "a"})
    folder = leave_checkpoint(queue, "a")
    lines = queue.ledger.head().lines
    withdraw(queue.ledger, queue.store, "a")
    assert not folder.exists() and queue.ledger.head().lines == lines
    with pytest.raises(LedgerError, match="from there it can't become withdrawn"):
        withdraw(queue.ledger, queue.store, "a")


def test_a_text_that_went_before_the_audit_stops_no_run(queue):
    queue.add("a", "b")
    queue.run(most=1)
    forget_text(queue.ledger, queue.store, "a", unaudited=True)
    report = queue.run(counting_audit([]))
    assert queue.states() == {"a": "trained", "b": "audited"}
    assert report.never_audited == ["a"] and report.unaudited == []


def test_a_request_called_like_a_combined_adapter_keeps_its_own(queue):
    queue.add("combined-001", "b")
    report = queue.run(consolidate=2)
    assert report.follow_up.combined == {"combined-002": 2}
    assert queue.store.get("combined-001").manifest.method.objective != "combined"
    assert sorted(queue.ledger.consolidated()[-1].payload["requests"]) == ["b", "combined-001"]


def test_what_was_made_since_under_a_withdrawn_name_is_left_alone(queue, tmp_path):
    queue.add("a", "b")
    queue.run()
    shutil.copytree(queue.store.root / "a", tmp_path / "a")
    withdraw(queue.ledger, queue.store, "a")
    queue.store.rename("b", "a")  # another adapter, whatever its name
    assert queue.run().withdrawn == [] and queue.store.names() == ["a"]
    queue.store.remove("a")
    shutil.copytree(tmp_path / "a", queue.store.root / "a")  # as a runner would, that was killed right afterwards
    assert queue.run().withdrawn == ["a"] and queue.store.names() == []


def test_a_run_audits_no_more_earlier_requests_again_than_it_may_and_takes_turns(queue):
    queue.add("a", "b", "c")
    queue.run(counting_audit([]), re_audit=False)
    queue.add("d")
    turns, some = [], AuditPolicy(re_audit_most=2)
    for _ in range(3):
        report = queue.run(counting_audit([]), policy=some)
        turns.append(report.follow_up.re_audited)
    assert turns == [["a", "b"], ["c", "d"], []]
    queue.add("e")
    report = queue.run(counting_audit([]), policy=some)
    assert report.follow_up.re_audited == ["a", "b"], "those that wait longest"
    assert "later run" in report.follow_up.not_re_audited["c"]
    assert set(report.follow_up.not_re_audited) == {"c", "d", "e"}
    with pytest.raises(SettingError, match="at least 1"):
        AuditPolicy(re_audit_most=0)
