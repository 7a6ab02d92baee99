"""What waits for a person is said, by every run and by the list: failed before, overdue, not audited, text kept."""

import pytest

from asu_lora.cli.requests.run_report import tell
from asu_lora.errors import TrainingError
from asu_lora.requests.runner.audit_policy import AuditPolicy
from tests.support.request_commands import call
from tests.support.request_queue import finds

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
    placed.run(finds())
    assert "no room" not in call("list").stdout


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
