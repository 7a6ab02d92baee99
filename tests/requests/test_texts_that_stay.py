"""What of destroyed texts could not be done is said, beside what was done."""

import sqlite3
from contextlib import closing, contextmanager

import pytest

from asu_lora.cli.requests.run_report import tell
from asu_lora.requests.ledger import database
from tests.support.request_commands import call
from tests.support.request_queue import finds


@pytest.fixture
def placed(queue, monkeypatch):
    monkeypatch.setenv("ASU_LORA_STORE", str(queue.store.root))
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.5)
    queue.add("a", "b")
    return queue


@contextmanager
def reader(queue):
    """Another program that reads the ledger, as a backup does; and where the sealed texts still lie."""
    file = queue.ledger.database.file
    with closing(sqlite3.connect(file)) as connection:
        texts = [row[0] for row in connection.execute("SELECT sealed FROM texts WHERE sealed IS NOT NULL")]
        connection.execute("BEGIN")
        connection.execute("SELECT * FROM history").fetchone()
        yield lambda: [path.name for path in file.parent.iterdir() if any(text in path.read_bytes() for text in texts)]


def test_of_several_texts_those_that_went_are_told_before_the_one_that_may_not_go(placed):
    placed.run(finds(), most=1, re_audit=False)
    told = call("forget-text", "a", "b", code=2)
    assert "The text of a is destroyed.\nOf 1 request: it can't be trained again" in told.stdout
    assert told.stderr.startswith("Error: The request b is queued: its text is needed")
    told = call("forget-text", "b", "a", code=2)
    assert told.stdout == "" and "The request b is queued" in told.stderr


def test_a_reader_of_the_ledger_keeps_a_destroyed_text_and_that_is_said_until_it_has_ended(placed):
    placed.run(finds(), re_audit=False)
    with reader(placed) as left:
        told = call("forget-text", "a", code=2)
        assert "The text of a is destroyed, but another program reads the ledger" in told.stderr and left()
        assert {r.id: r.text for r in placed.ledger.requests()}["a"] == "text-destroyed"
        assert "give the same command again" in call("forget-text", "a", "b", code=2).stderr
    call("forget-text", "a", "b")
    with reader(placed) as left:
        assert not left()


def test_a_withdrawal_is_told_though_its_text_may_not_go_yet(placed):
    with reader(placed):
        told = call("withdraw", "a", "-y", "--forget-text", code=2)
    assert "a is withdrawn. It had no adapter." in told.stdout and "another program reads" in told.stderr


def test_a_run_goes_on_beside_a_reader_says_what_it_keeps_and_the_next_one_takes_it_out(placed, capsys):
    with reader(placed) as left:
        report = placed.run(finds(), forget_text=True, re_audit=False)
        assert sorted(report.texts_gone) == ["a", "b"] and report.not_scrubbed and left()
        tell(report, placed.shop())
        assert "destroyed texts still lie in its write-ahead log" in capsys.readouterr().out
    assert not placed.run(finds(), forget_text=True).not_scrubbed and not left()
