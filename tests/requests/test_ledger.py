"""The ledger: states in their order, lists by due date, a schema that is what its steps make, refusals in a sentence."""

import os
import sqlite3
from contextlib import closing
from dataclasses import asdict
from threading import Timer

import pytest
from sqlalchemy import text

from asu_lora.errors import LedgerError, SettingError
from asu_lora.requests.ledger import database
from asu_lora.requests.ledger.database import Database, has_password
from asu_lora.requests.ledger.ledger import Ledger, open_ledger
from asu_lora.requests.ledger.states import FOLLOWS, STATES, Line, after
from asu_lora.requests.ledger.tables import SCHEMA, metadata
from tests.support.full_disk import no_file_above

LATER, SOONER, PAST = "2999-01-01T00:00:00Z", "2998-01-01T00:00:00Z", "2001-01-01T00:00:00Z"
PAYLOADS = {"received": {"due": LATER}, "trained": {"adapter": "a"}, "failed": {"sentence": "No memory."}}
TO = {  # a way to each state
    "received": ["received"],
    "queued": ["received", "queued"],
    "training": ["received", "queued", "training"],
    "trained": ["received", "queued", "training", "trained"],
    "audited": ["received", "queued", "training", "trained", "audited"],
    "deployed": ["received", "queued", "training", "trained", "deployed"],
    "withdrawn": ["received", "withdrawn"],
    "failed": ["received", "failed"],
}


def bring(ledger, request, state, due=LATER):
    with ledger.changing() as change:
        for event in TO[state]:
            change.append(event, request, PAYLOADS.get(event, {}) | ({"due": due} if event == "received" else {}))


def line(event, request="a"):
    return Line(1, "2026-01-01T00:00:00Z", "tester", request, event, PAYLOADS.get(event, {}), "", "")


def test_every_state_takes_what_may_follow_it_and_refuses_the_rest():
    assert set(TO) == set(STATES)
    for state in STATES:
        found = None
        for event in TO[state]:
            found = after(found, line(event))
        assert found.state == state
        for event in STATES:
            if state in FOLLOWS[event]:
                assert after(found, line(event)).state == event
            else:
                with pytest.raises(LedgerError, match="The request a "):
                    after(found, line(event))


def test_a_refused_step_leaves_no_line(ledger):
    bring(ledger, "a", "queued")
    with pytest.raises(LedgerError, match="a is queued; from there it can't become audited"):
        ledger.record("audited", "a")
    assert ledger.get("a").state == "queued" and ledger.head().lines == 2 and ledger.verify().whole


def test_a_ledger_that_can_only_be_read_is_read_and_not_touched(tmp_path, monkeypatch):
    bring(open_ledger(tmp_path, None, actor="tester", seal=None, create=True), "a", "queued")
    folder, may = Database(tmp_path).file.parent, os.access
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    monkeypatch.setattr(os, "access", lambda path, mode, **more: mode != os.W_OK and may(path, mode, **more))
    ledger = open_ledger(tmp_path, None, actor="tester", seal=None)
    assert ledger.get("a").state == "queued" and ledger.verify().whole
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before
    with pytest.raises(LedgerError, match="readonly database"):
        ledger.record("training", "a")


def test_overdue_ones_come_first_then_open_ones_by_date_then_the_rest(ledger):
    for request, state, due in (
        ("done", "deployed", PAST),
        ("later", "queued", LATER),
        ("gone", "withdrawn", PAST),
        ("late", "trained", PAST),
        ("sooner", "audited", SOONER),
        ("broken", "failed", PAST),
    ):
        bring(ledger, request, state, due)
    assert [r.id for r in ledger.requests()] == ["broken", "late", "sooner", "later", "done", "gone"]
    assert [r.id for r in ledger.requests(overdue=True)] == ["broken", "late"]
    assert [r.id for r in ledger.requests(["queued", "trained"])] == ["late", "later"]
    assert ledger.counts() == {
        "deployed": 1, "queued": 1, "withdrawn": 1, "trained": 1, "audited": 1, "failed": 1, "overdue": 2,
    }  # fmt: skip


def test_a_request_is_what_its_lines_say(ledger):
    bring(ledger, "a", "audited")
    ledger.record("re-audited", "a", {"worst": 0.1})
    ledger.record("text-destroyed", "a")
    found, lines = ledger.get("a"), ledger.history("a")
    assert (found.attempts, found.audits, found.adapter, found.text) == (1, 2, "a", "text-destroyed")
    assert [line.event for line in lines] == [*TO["audited"], "re-audited", "text-destroyed"]
    assert {line.actor for line in lines} == {"tester"} and found.changed == lines[-1].at
    assert ledger.history(events=["re-audited"])[0].payload == {"worst": 0.1}


def test_an_unknown_request_is_refused_with_those_there_are(ledger):
    bring(ledger, "TICKET-1", "queued")
    with pytest.raises(LedgerError, match=r"no request ICKET in the ledger: it has TICKET-1\."):
        ledger.get("ICKET")
    assert ledger.find("ICKET") is None


def test_the_steps_of_the_schema_make_the_tables_the_program_uses(ledger):
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with ledger.database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    config = Config()
    config.set_main_option("script_location", "asu_lora.requests.ledger:migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA


def test_a_ledger_of_a_newer_program_is_refused(ledger, tmp_path, address):
    with ledger.database.changing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerError, match="newer asu-lora"):
        open_ledger(tmp_path / "store", address)


def test_no_ledger_is_made_by_looking_for_one(tmp_path):
    with pytest.raises(LedgerError, match="no ledger at .* yet"):
        open_ledger(tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "in memory"),
        ("nonsense", "no address of a database"),
        ("postgresql://nobody:secret@127.0.0.1:1/none?connect_timeout=2", "can't be reached"),
        ("oracle+nothing://u@h/d", "needs a driver"),
        ("sqlite:////proc/nowhere/ledger.sqlite", "can't be"),
    ],
)
def test_a_database_that_is_not_there_is_one_sentence_without_its_password(url, said, tmp_path):
    with pytest.raises(Exception) as error:
        open_ledger(tmp_path, url, create=True)
    from asu_lora.errors import AsuLoraError

    assert isinstance(error.value, AsuLoraError) and said in str(error.value)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_a_full_disk_is_said_beside_what_sqlite_calls_it(tmp_path, vault, monkeypatch):
    ledger = open_ledger(tmp_path / "store", None, actor="tester", seal=vault.seal, create=True)
    with no_file_above(4096), pytest.raises(LedgerError) as had_room:
        bring(ledger, "a", "queued")
    monkeypatch.setattr(database, "ROOM", 1 << 60)  # no disk has so much left
    with no_file_above(4096), pytest.raises(LedgerError, match="; the disk is full, .*store.* needs") as full:
        bring(ledger, "a", "queued")
    assert "disk is full, " not in str(had_room.value) and "\n" not in str(full.value)
    bring(ledger, "a", "queued")
    assert ledger.verify().whole


def test_a_database_that_went_away_is_missed_at_the_next_step(ledger, address, tmp_path, postgres_server):
    bring(ledger, "a", "queued")
    if address is None:
        ledger.database.file.rename(tmp_path / "moved")
        with pytest.raises(LedgerError, match="can't be reached"):
            ledger.record("training", "a")
        assert not ledger.database.file.exists()  # no empty one was made in its place
        (tmp_path / "moved").rename(ledger.database.file)
    else:
        postgres_server.stop()
        try:
            with pytest.raises(LedgerError, match="can't be reached"):
                ledger.record("training", "a")
        finally:
            postgres_server.start()
    ledger.record("training", "a")  # and goes on when it is back
    assert ledger.verify().whole


def test_sqlite_and_postgres_hold_the_same_ledger(tmp_path, postgres_server, vault, monkeypatch):
    monkeypatch.setattr("asu_lora.requests.ledger.history.utc_text", lambda: "2026-01-01T00:00:00Z")
    both = []
    for place in (None, postgres_server.new_database("same")):
        ledger = open_ledger(tmp_path, place, actor="tester", seal=vault.seal, create=True)
        for state in STATES:
            bring(ledger, state, state)
        both.append((ledger.head(), [asdict(r) for r in ledger.requests()], ledger.history()))
    assert both[0] == both[1]


def test_lines_are_found_by_their_event_and_from_the_end(ledger):
    bring(ledger, "a", "trained")
    bring(ledger, "b", "queued")
    assert [line.number for line in ledger.history(last=2)] == [5, 6]
    assert [line.event for line in ledger.history("a", last=1)] == ["trained"]
    assert [line.request for line in ledger.history(events=["queued"])] == ["a", "b"]


def test_a_password_is_hidden_wherever_the_address_has_it(tmp_path):
    for url in ("postgresql://u:secret@127.0.0.1:1/d", "postgresql://u@127.0.0.1:1/d?password=secret"):
        assert "secret" not in Database(tmp_path, url).shown and has_password(url)


@pytest.mark.parametrize("actor", ["a\x00b", "\x1b[2J", "\udcff"])
def test_an_actor_that_can_not_be_written_down_is_refused(actor, ledger):
    with pytest.raises(SettingError, match="The actor holds a control character"):
        Ledger(ledger.database, actor)


def test_a_new_file_that_another_program_writes_to_is_waited_for(tmp_path):
    ledger = Database(tmp_path)
    ledger.file.parent.mkdir()
    with closing(sqlite3.connect(ledger.file, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        release = Timer(0.3, other.execute, ["COMMIT"])
        release.start()
        ledger.prepare()
        release.join()
    assert ledger.exists()


def test_a_file_that_stays_in_other_hands_is_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    ledger = Database(tmp_path)
    ledger.file.parent.mkdir()
    with closing(sqlite3.connect(ledger.file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="can't be reached .database is locked."):
            ledger.prepare()
