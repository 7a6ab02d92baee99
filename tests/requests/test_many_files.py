"""A hundred files at once: each is a request, and a broken one or one that is there already stops no other."""

import json

import pytest

from asu_lora.requests.asked_before import AskedBefore
from asu_lora.requests.key import ENVIRONMENT, new_key
from asu_lora.requests.text_vault import RequestText, destroy_text
from tests.support.request_commands import call
from tests.support.tiny_run import FACTS, rows


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ASU_LORA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv(ENVIRONMENT, new_key())
    for number in range(8):
        (tmp_path / f"t{number}.jsonl").write_text("\n".join(map(json.dumps, rows(FACTS[number : number + 1]))))
    (tmp_path / "broken.jsonl").write_text('{"question": "What does Anna Birk do?"')
    return tmp_path


def test_each_file_is_a_request_and_a_bad_one_stops_no_other(place):
    call("add", place / "t3.jsonl")
    files = [*(place / f"t{number}.jsonl" for number in range(8)), place / "broken.jsonl", place / "gone.jsonl"]
    done = call("add", *files, "--due", "2w", "--owner", "desk", code=1)
    assert done.stdout.splitlines()[-1] == "7 added, 3 not." and "t0: 1 row, queued, due" in done.stdout
    said = done.stderr.splitlines()
    assert len(said) == 3 and not [line for line in said if line.startswith("Error")]
    assert said[0].startswith(
        f"{files[3]}: There is a request t3 already: rename the file, or add it alone with an --id"
    )
    assert "retry t3 --file FILE" in said[0]
    assert "broken JSON" in said[1] and "broken is kept as failed, due" in said[1]
    assert "There is no file" in said[2] and str(files[-1]) in said[2]
    listed = {each["id"]: each for each in json.loads(call("list", "--json").stdout)}
    assert {name: each["state"] for name, each in listed.items()} == {
        **{f"t{number}": "queued" for number in range(8)}, "broken": "failed",
    }  # fmt: skip
    assert listed["t3"]["owner"] is None and listed["t4"]["owner"] == "desk"
    assert "is what was handed in" in call("show", "t7", "--is-text", place / "t7.jsonl").stdout
    assert "The history is whole" in call("verify").stdout


def test_a_name_too_long_for_any_file_stops_no_other(place):
    told = call("add", "a" * 300 + ".jsonl", place / "t0.jsonl", code=1)
    assert "1 added, 1 not." in told.stdout and "can't be read" in told.stderr


def test_json_is_a_list_with_a_sentence_for_what_was_not_taken(place):
    told = json.loads(
        call("add", place / "t0.jsonl", place / "t0.jsonl", place / "broken.jsonl", "--json", code=1).stdout
    )
    assert [(each["id"], each["state"]) for each in told] == [("t0", "queued"), ("t0", None), ("broken", "failed")]
    assert [bool(each["sentence"]) for each in told] == [False, True, True] and told[0]["rows"] == 1
    assert told[0]["file"] == str(place / "t0.jsonl")
    assert [
        each["id"] for each in json.loads(call("add", place / "t1.jsonl", place / "t2.jsonl", "--json").stdout)
    ] == ["t1", "t2"]
    assert json.loads(call("add", place / "t3.jsonl", "--json").stdout)["id"] == "t3"  # of one file no list


def test_what_concerns_all_files_ends_the_batch_before_any_is_taken(place, monkeypatch):
    two = (place / "t0.jsonl", place / "t1.jsonl")
    assert "--id names one request" in call("add", *two, "--id", "T-1", code=2).stderr
    told = call("add", *two, "--retain", place / "broken.jsonl", code=2).stderr
    assert "broken JSON" in told and told.count("\n") == 1
    assert json.loads(call("list", "--json").stdout) == []
    call("add", *two)
    monkeypatch.setenv(ENVIRONMENT, new_key())
    told = call("add", place / "t2.jsonl", place / "t3.jsonl", code=2).stderr
    assert "sealed with another key" in told and told.count("\n") == 1


def test_a_ticket_whose_rows_stand_in_another_one_is_taken_in_and_told(place):
    (place / "all.jsonl").write_text("\n".join((place / f"t{number}.jsonl").read_text() for number in range(3)))
    (place / "again.csv").write_text("question,answer\nWhat does ANNA Birk do?,Anna Birk keeps bees.\n")
    assert "stand in" not in call("add", place / "all.jsonl").stderr
    assert "All rows of again stand in all already" in call("add", place / "again.csv").stderr
    told = call("add", place / "t1.jsonl", place / "t4.jsonl")
    assert "All rows of t1 stand in all already" in told.stderr and "t4 stand" not in told.stderr
    assert json.loads(call("add", place / "t2.jsonl", "--json").stdout)["same_rows_in"] == ["all"]
    told = json.loads(call("add", place / "t0.jsonl", place / "t5.jsonl", "--json").stdout)
    assert [each["same_rows_in"] for each in told] == [["again", "all"], []]
    for request in ("t0", "again", "all"):
        call("withdraw", request, "--yes")
    assert json.loads(call("add", place / "t0.jsonl", "--id", "other", "--json").stdout)["same_rows_in"] == []


def test_a_ticket_of_rows_whose_text_is_destroyed_is_told_too(ledger, vault):
    for name in "ab":
        ledger.record("received", name, {"due": "2999"})
    with ledger.changing() as change:
        vault.put(change.connection, "a", RequestText(rows(FACTS[:2])))
        vault.put(change.connection, "b", RequestText(rows(FACTS[1:2])))
        change.append("queued", "a", {"rows": 2})
        change.append("queued", "b", {"rows": 1})
        change.append("text-destroyed", "a", {})
        destroy_text(change.connection, "a")
    before = AskedBefore(ledger, vault)
    assert before.of("b") == ["a"] and before.of("a") == []
