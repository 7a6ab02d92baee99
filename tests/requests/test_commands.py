"""The commands as people type them: what they print, how they refuse, and that no refusal leaves anything half done."""

import json
import re

import pytest
from click.testing import CliRunner

from asu_lora.cli import main
from asu_lora.requests.key import ENVIRONMENT, new_key
from tests.support.adapter_folders import write_lora
from tests.support.request_commands import call
from tests.support.tiny_run import rows


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ASU_LORA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv(ENVIRONMENT, new_key())
    monkeypatch.setenv("ASU_LORA_ACTOR", "tester")
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows())))
    return tmp_path


def test_a_request_from_its_arrival_to_its_end(place):
    assert "T-1: 12 rows, queued, due" in call("add", place / "a.jsonl", "--id", "T-1", "--owner", "desk").stdout
    assert (
        "no file is needed any more. 'asu-lora requests run' trains it."
        in call("add", place / "a.jsonl", "--due", "2w").stderr
    )
    assert [r["id"] for r in json.loads(call("list", "--json").stdout)] == ["a", "T-1"]
    shown = call("list").stdout
    assert "queued" in shown and "desk" in shown and shown.endswith("2 queued.\n")
    told = json.loads(call("show", "T-1", "--json", "--is-text", place / "a.jsonl").stdout)
    assert told["is_text"] and told["history"][0]["actor"] == "tester" and told["text"] == "sealed"
    assert (
        "T-1 is withdrawn. It had no adapter. Its text is destroyed."
        in call("withdraw", "T-1", "-y", "--forget-text", "--reason", "revoked").stdout
    )
    (place / "b.jsonl").write_text("\n".join(map(json.dumps, rows()[1:])))
    assert "is not what was handed in" in call("show", "T-1", "--is-text", place / "b.jsonl", code=3).stdout
    assert not json.loads(call("show", "T-1", "--json", "--is-text", place / "b.jsonl", code=3).stdout)["is_text"]
    assert "is what was handed in" in call("show", "T-1", "--is-text", place / "a.jsonl").stdout
    assert "withdrawn" in call("log", "T-1").stdout and "Head: 6:" in call("log", "-n", "1").stdout
    assert "keeps" not in call("log").stdout + call("export").stdout + call("show", "a").stdout


def test_an_id_that_a_script_left_empty_is_no_file_s_name(place):
    refused = call("add", place / "a.jsonl", "--id", "", code=2)
    assert "can't be an adapter's name" in refused.stderr and json.loads(call("list", "--json").stdout) == []


def test_a_file_is_what_was_handed_in_whatever_was_to_be_kept_beside_it(place):
    for name, some in (("b", rows()[:2]), ("keep", rows()[6:])):
        (place / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    call("add", place / "b.jsonl", "--retain", place / "keep.jsonl")
    assert "b.jsonl is what was handed in" in call("show", "b", "--is-text", place / "b.jsonl").stdout
    assert "is not what was handed in" in call("show", "b", "--is-text", place / "keep.jsonl", code=3).stdout
    kept = call("show", "b", "--is-text", place / "b.jsonl", "--retain", place / "keep.jsonl").stdout
    assert "keep.jsonl is what was handed in" in kept
    (place / "less.jsonl").write_text(json.dumps(rows()[7]))
    other = call("show", "b", "--is-text", place / "b.jsonl", "--retain", place / "less.jsonl", code=3)
    assert "less.jsonl is not what was handed in" in other.stdout


def test_a_file_of_which_some_rows_were_handed_in_is_compared_by_these_rows(place):
    marked = [row | {"person": n % 2} for n, row in enumerate(rows())]
    (place / "all.jsonl").write_text("\n".join(map(json.dumps, marked)))
    assert "T: 6 rows" in call("add", place / "all.jsonl", "--id", "T", "--where", "person=1").stdout
    asked = ("show", "T", "--is-text", place / "all.jsonl", "--where")
    assert "is not what was handed in" in call(*asked, "person=0", code=3).stdout
    assert "is what was handed in" in call(*asked, "person=1").stdout


def test_verify_says_whole_and_what_is_wrong_with_its_exit_code(place):
    import sqlite3

    call("add", place / "a.jsonl")
    head = json.loads(call("verify", "--json").stdout)["head"]
    assert "The history is whole: 2 lines, signed up to line 2." in call("verify", "--expect", head).stdout
    told = call("verify", "--heads", place / "heads.txt").stdout + call("verify", "--heads", place / "heads.txt").stdout
    assert told.endswith("It holds all that was noted: 1 head.\n") and head in (place / "heads.txt").read_text()
    with sqlite3.connect(place / "store" / ".requests" / "ledger.sqlite") as connection:
        connection.execute("DELETE FROM history WHERE number = 2")
    assert "The last 1 of 2 lines are missing." in call("verify", code=1).stdout
    assert json.loads(call("verify", "--json", code=1).stdout)["whole"] is False
    assert "no head of a history" in call("verify", "--expect", "x", code=2).stderr


def test_the_ledger_as_json_lines_and_as_csv(place):
    call("add", place / "a.jsonl", "--note", "=1+1")
    lines = [json.loads(line) for line in call("export").stdout.splitlines()]
    assert [line["event"] for line in lines] == ["received", "queued"]
    table = call("export", "--what", "requests", "--format", "csv").stdout.splitlines()
    assert table[0].startswith("id,state,received,due") and "'=1+1" in table[1]
    call("export", "--out", place / "ledger.jsonl")
    assert len((place / "ledger.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "{a}", "--due", "2020-01-01"], "has passed already"),
        (["add", "{a}", "--due", "soon"], "is no date"),
        (["add", "{a}", "--id", "a/b"], "can't be an adapter's name"),
        (["add", "{a}", "--id", "known"], "There is a request known already"),
        (["add", "{a}.gone", "--id", "new"], "There is no file"),
        (["add", "{a}", "--id", "new", "--key-file", "{a}"], "no key"),
        (["show", "unknown"], "There is no request unknown in the ledger: it has known."),
        (["retry", "known"], "only one that failed is tried again"),
        (["forget-text", "known"], "its text is needed to train it"),
        (["deploy", "nothing"], "There is no adapter nothing"),
        (["deploy", "{a}"], "Nothing tells which requests are in"),
        (["deploy", "{a}", "-r", "known"], "holds the request known, which is queued"),
        (["list", "--database", "postgresql://u:secret@127.0.0.1:1/d?connect_timeout=2"], "can't be reached"),
    ],
)
def test_what_is_refused_is_one_sentence_and_leaves_no_line(place, words, said):
    call("add", place / "a.jsonl", "--id", "known")
    before = call("export").stdout
    told = call(*(word.format(a=place / "a.jsonl") for word in words), code=2).stderr
    assert said in told and told.startswith("Error: ") and told.count("\n") == 1 and "secret" not in told
    assert call("export").stdout == before


def test_another_key_is_refused(place, monkeypatch):
    call("add", place / "a.jsonl")
    monkeypatch.setenv(ENVIRONMENT, new_key())
    assert "sealed with another key" in call("add", place / "a.jsonl", "--id", "b", code=2).stderr


def test_the_first_request_makes_a_key_and_says_where(place, monkeypatch):
    monkeypatch.delenv(ENVIRONMENT)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place / "config"))
    assert "There are no requests yet" in call("list").stdout
    assert not (place / "store").exists()
    key = place / "config" / "asu-lora" / "requests.key"
    assert f"was made: {key}" in call("add", place / "a.jsonl").stderr and key.is_file()
    key.unlink()  # a second key would lock the first text in: none is made
    assert "The key of the requests' texts is missing" in call("add", place / "a.jsonl", "--id", "b", code=2).stderr
    call("key", "--out", place / "new")
    assert "there already" in call("key", "--out", place / "new", code=2).stderr


def test_a_broken_file_is_kept_with_its_day_and_handed_in_again(place):
    (place / "broken.jsonl").write_text('{"question": "What does Anna Birk do?"')
    told = call("add", place / "broken.jsonl", "--id", "T-1", code=2).stderr
    assert "broken JSON" in told and "T-1 is kept as failed, due" in told
    assert json.loads(call("list", "--json", "--state", "failed").stdout)[0]["id"] == "T-1"
    assert "T-1: queued again, 12 rows" in call("retry", "T-1", "--file", place / "a.jsonl").stdout


def test_a_list_of_what_is_open_and_of_what_is_late(place):
    from asu_lora.requests.ledger.ledger import open_ledger

    ledger, steps = open_ledger(place / "store", create=True), ("queued", "training", "trained", "deployed")
    for name, due, events in (
        ("late", "2020", steps[:1]),
        ("late-failed", "2020", ("failed",)),
        ("failed", "2999", ("failed",)),
        ("trained", "2999", steps[:3]),
        ("served-late", "2020", steps),
        ("gone", "2999", ("withdrawn",)),
    ):
        ledger.record("received", name, {"due": due})
        for event in events:
            ledger.record(event, name, {"adapter": name})

    def listed(*words):
        return [each["id"] for each in json.loads(call("list", "--json", *words).stdout)]

    assert listed("--state", "open") == ["late", "late-failed", "failed", "trained"]
    assert listed("--state", "overdue") == listed("--overdue") == ["late", "late-failed"]
    assert listed("--state", "open", "--state", "overdue") == listed("--state", "open")
    assert listed("--state", "trained", "--state", "overdue") == ["late", "late-failed", "trained"]
    assert listed("--state", "withdrawn", "--state", "overdue") == ["late", "late-failed", "gone"]
    assert listed("--state", "failed", "--overdue") == ["late-failed"]
    assert (
        "No request is audited or training. Of all:\n"
        in call("list", "--state", "audited", "--state", "training").stdout
    )
    assert "No request is" not in call("list", "--overdue").stdout + call("list").stdout
    said = call("list", "--state", "done", code=2).stderr
    assert "'done' is none of received, queued" in said and "failed, open, overdue" in said


def test_what_is_served_is_told_by_its_hash_and_what_it_lost(place):
    from asu_lora.requests.ledger.ledger import open_ledger

    ledger = open_ledger(place / "store", create=True)
    for name in "ab":
        with ledger.changing() as change:
            for event, told in (
                ("received", {"due": "2999"}),
                ("queued", {}),
                ("training", {}),
                ("trained", {"adapter": name}),
            ):
                change.append(event, name, told)
    merged = place / "merged"
    merged.mkdir()
    (merged / "model.safetensors").write_bytes(b"weights")
    told = json.loads(call("deploy", merged, "--all-trained", "--json").stdout)
    assert told["artefact"]["requests"] == ["a", "b"] and len(told["artefact"]["hash"]) == 64
    assert "this doesn't: b." in call("deploy", merged, "--request", "a").stderr
    (merged / "model.safetensors").write_bytes(b"other weights")
    again = json.loads(call("deploy", merged, "-r", "a", "--json").stdout)
    assert again["artefact"]["hash"] != told["artefact"]["hash"]
    assert {r["state"] for r in json.loads(call("list", "--json").stdout)} == {"deployed"}


def test_a_run_over_its_limit_ends_with_3_and_says_how_to_go_on(place, taught_base):
    (place / "one.jsonl").write_text(json.dumps(rows()[0]))
    (place / "keep.jsonl").write_text("\n".join(map(json.dumps, rows()[-2:])))
    call("add", place / "one.jsonl", "--id", "T-1", "--retain", place / "keep.jsonl")
    settings = (
        "--base",
        taught_base,
        "--precision",
        "fp32",
        "--device",
        "cpu",
        "--lr",
        "1e-9",
        "--epochs",
        "1",
        "--tau",
        "2.3",
    )
    run = ("run", *settings, "--settle-at", "0", "--certify")
    told = call(*run, "--fail-over", "0.1", code=3).stdout
    assert "0 audited, 1 failed" in told and "more than --fail-over 0.1 allows" in told and "requests retry" in told
    assert not list((place / "store").glob("*/certificate.json"))
    call("retry", "T-1")
    done = call(*run, "--fail-over", "9")
    told = done.stdout
    assert re.search(r"1/1 T-1 audited \(found\).*, at most \d+% came back, \d+% of the rest is kept\n", done.stderr)
    assert "0 trained, 1 audited, 0 failed" in told and "1 certificate issued" in told
    assert (place / "store" / "T-1" / "certificate.html").is_file()
    assert "--no-audit" in call("run", *settings, "--no-audit", "--certify", code=2).output


def test_a_run_says_why_a_request_failed_and_how_it_is_queued_again(place, tiny_base):
    call("add", place / "a.jsonl", "--id", "T-1")
    told = call("run", "--base", tiny_base, "--precision", "fp32", "--device", "cpu", "--no-audit", code=1).stdout
    assert "T-1 failed: The base hardly knows what should be forgotten" in told
    assert "Once what is wrong is mended: 'asu-lora requests retry TICKET' queues one again.\n" in told


@pytest.mark.parametrize("database", [None, "sqlite:///{}/elsewhere.sqlite"])
def test_removing_a_request_s_adapter_names_the_command_that_takes_it_back(place, monkeypatch, database):
    from asu_lora.requests.ledger.ledger import open_ledger

    address = database.format(place) if database else None
    if address:
        monkeypatch.setenv("ASU_LORA_DATABASE", address)
    write_lora(place / "store" / "T-1")
    write_lora(place / "store" / "other")
    with open_ledger(place / "store", address, create=True).changing() as change:
        for event, told in (
            ("received", {"due": "2999"}),
            ("queued", {}),
            ("training", {}),
            ("trained", {"adapter": "T-1"}),
        ):
            change.append(event, "T-1", told)
    removed = CliRunner().invoke(main, ["adapters", "remove", "T-1", "--yes"])
    assert removed.exit_code == 0 and removed.stdout == "Removed T-1.\n", removed.output
    assert "the request T-1, which stays trained: 'asu-lora requests withdraw T-1' takes it back" in removed.stderr
    assert CliRunner().invoke(main, ["adapters", "remove", "other", "--yes"]).stderr == ""


def test_a_ledger_that_can_not_be_read_keeps_no_adapter_in_the_store_and_is_said(place):
    write_lora(place / "store" / "one")
    (place / "broken.sqlite").write_text("no database")
    words = ["adapters", "remove", "one", "--yes", "--database", f"sqlite:///{place}/broken.sqlite"]
    removed = CliRunner().invoke(main, words)
    assert removed.stdout == "Removed one.\n" and "whether a request has one of them can't be told" in removed.stderr
