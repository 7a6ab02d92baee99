"""A ledger beside a store that is not its own: what only reads says so, for its adapters are elsewhere."""

import json

import pytest

from asu_lora.requests.key import ENVIRONMENT, new_key
from tests.support.request_commands import call


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A database whose requests came in with the store "one"; its words on a command line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ENVIRONMENT, new_key())
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "Who keeps bees?", "answer": "Anna Birk."}))
    database = ["--database", f"sqlite:///{tmp_path}/ledger.sqlite"]
    call("add", "a.jsonl", "--store", "one", *database)
    return database


def test_reading_a_ledger_of_another_store_says_so_and_shows_it_all_the_same(elsewhere):
    for words in (["list"], ["show", "a"], ["list", "--json"]):
        own, other = (call(*words, "--store", store, *elsewhere) for store in ("one", "two"))
        assert own.stdout == other.stdout and "a" in own.stdout and own.stderr == ""
        assert other.stderr.count("\n") == 1 and "ledger.sqlite is that of another store" in other.stderr
        assert "two" in other.stderr


def test_a_ledger_that_lies_in_its_store_is_its_own_by_any_name(elsewhere, tmp_path):
    call("add", "a.jsonl", "--store", "three")
    named = f"sqlite:///{tmp_path}/three/.requests/ledger.sqlite"
    assert call("list", "--store", "three").stderr == call("list", "--store", "three", "--database", named).stderr == ""
    assert "another store" in call("list", "--store", "one", "--database", named).stderr
