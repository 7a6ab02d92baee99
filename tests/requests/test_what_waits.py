"""What waits for a person is said, by every run and by the list: failed before, overdue, not audited, text kept."""

import json

import pytest

from asu_lora.cli.requests.run_report import tell
from asu_lora.errors import TrainingError
from asu_lora.requests.ledger.claims import Worker, claim_one, release
from asu_lora.requests.runner.audit_policy import AuditPolicy
from tests.support.request_commands import call
from tests.support.request_queue import finds
from tests.support.tiny_run import rows

STRICT = AuditPolicy(fail_over=0.1)


@pytest.fixture
def placed(queue, monkeypatch):
    monkeypatch.setenv("ASU_LORA_STORE", str(queue.store.root))
    monkeypatch.setenv("COLUMNS", "200")
    return queue


def test_every_run_names_what_failed_before_and_what_is_overdue(placed, capsys):
    placed.add("weak")
    placed.add("late", due="2020-01-01T00:00:00Z")
    report = placed.run(finds(weak=0.4), policy=STRICT)
    assert report.failed_before == [] and report.overdue == ["late"]
    report = placed.run(finds(), policy=STRICT)
    assert report.outcomes == [] and report.failed_before == ["weak"]
    capsys.readouterr()
    tell(report, placed.shop())
    said = capsys.readouterr().out
    assert "nobody has queued them again: weak; 'asu-lora requests list --state failed'" in said
    assert "OVERDUE: late.\n" in said


def test_the_list_says_why_a_trained_request_is_not_audited(placed):
    def cannot(task):
        raise TrainingError("The attack has no room.")

    placed.add("a")
    placed.run(cannot)
    assert "not audited: The attack has no room." in call("list").stdout
    (listed,) = json.loads(call("list", "--json").stdout)
    assert (listed["not_audited"], listed["runner"]) == ("The attack has no room.", None)
    claim = claim_one(placed.ledger, Worker.here("host:1"), "a", ("trained",))
    assert "trained by host:1" in call("list").stdout
    assert json.loads(call("list", "--json").stdout)[0]["runner"] == "host:1"
    release(placed.ledger, claim)
    placed.run(finds())
    assert "no room" not in call("list").stdout + call("list", "--json").stdout


def test_a_run_whose_audits_can_not_be_made_tells_and_ends_with_1(placed, taught_base):
    """Every fact of the row stands in its question, so that no attack has anything to count."""
    row = rows()[0]
    row["spans"] = [next(word for word in row["answer"].split() if word in row["question"])]
    (placed.root / "row.jsonl").write_text(json.dumps(row))
    (placed.root / "keep.jsonl").write_text("\n".join(map(json.dumps, rows()[-2:])))
    call("add", placed.root / "row.jsonl", "--id", "a", "--retain", placed.root / "keep.jsonl")
    settings = ("--precision", "fp32", "--device", "cpu", "--epochs", "1", "--tau", "2.3", "--settle-at", "0")
    run = ("run", "--base", taught_base, *settings, "--no-adds-up")
    told = call(*run, code=1)
    assert (
        "1 trained, 0 audited, 0 failed" in told.stdout and "Not audited: a; their audit did not succeed" in told.stdout
    )
    assert json.loads(call(*run, "--json", code=1).stdout)["outcomes"][0]["audit_failed"]
    call(*run, "--no-audit")


def test_a_second_audit_that_can_not_be_made_is_no_run_without_a_fault_either(placed):
    def cannot(task):
        if len(task.adapters) > 1:
            raise TrainingError("The attack has no room.")
        return finds(a=0.4)(task)

    placed.add("a", "b")
    report = placed.run(cannot)
    assert report.follow_up.audit_failed == ["a", "b"] and report.not_audited == ["a", "b"]
    assert placed.run(finds()).not_audited == []
    placed.add("c")
    report = placed.run(cannot, policy=AuditPolicy(fail_over=0.0))
    assert report.not_audited and not report.refused, "something else went wrong too"


def test_all_audited_leaves_texts_of_audits_that_are_not_passed(placed):
    placed.add("first", "second")
    placed.run(finds(), policy=STRICT)
    placed.add("third")
    placed.run(finds(first=0.4), policy=STRICT)
    told = call("forget-text", "--all-audited")
    assert "first keeps its text, unless you name it: 40% came back." in told.stderr
    assert {r.id: r.text for r in placed.ledger.requests()} == {
        "first": "sealed", "second": "text-destroyed", "third": "text-destroyed",
    }  # fmt: skip
    assert "The text of first is destroyed." in call("forget-text", "first").stdout
