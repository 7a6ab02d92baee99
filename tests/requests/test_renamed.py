"""A request's adapter keeps its request's name; under another name it is found by its weights."""

import shutil

import pytest
from click.testing import CliRunner

from asu_lora.adapters.store import AdapterStore
from asu_lora.cli import main
from asu_lora.requests.ledger.ledger import open_ledger
from asu_lora.requests.withdrawal import finish_withdrawals, withdraw
from tests.support.adapter_folders import add
from tests.support.request_commands import call


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The requests a and b, trained, and an adapter of no request."""
    monkeypatch.setenv("ASU_LORA_STORE", str(tmp_path / "store"))
    store = AdapterStore(tmp_path / "store")
    ledger = open_ledger(store.root, create=True)
    for seed, name in enumerate("ab"):
        ledger.record("received", name, {"due": "2999"})
        for event in ("queued", "training"):
            ledger.record(event, name)
        ledger.record("trained", name, {"adapter": name, "fingerprint": add(store, name, seed=seed).fingerprint})
    add(store, "other", seed=9)
    return store


def rename(*words):
    return CliRunner().invoke(main, ["adapters", "rename", *words])


def test_the_adapter_of_a_request_is_not_renamed_and_the_way_out_is_said(store):
    told = rename("a", "x")
    assert told.exit_code == 2 and told.output.count("\n") == 1 and store.names() == ["a", "b", "other"]
    assert "a is the adapter of the request a, which the ledger finds by this name" in told.output
    assert "asu-lora adapters export a" in told.output
    assert rename("other", "x").exit_code == 0
    call("withdraw", "b", "-y")
    add(store, "b", seed=12)
    assert rename("b", "y").exit_code == 0, "a withdrawn request has none"


def test_another_adapter_under_a_request_s_name_is_renamed_and_its_own_is_put_back(store):
    store.rename("a", "x")  # as by an earlier version
    add(store, "a", seed=12)
    assert rename("a", "y").exit_code == 0
    assert rename("x", "a").exit_code == 0 and store.names() == ["a", "b", "other", "y"]


def test_a_withdrawal_removes_an_adapter_that_goes_by_another_name(store):
    store.rename("a", "x")  # as by an earlier version
    assert "a is withdrawn. Its adapter x is removed." in call("withdraw", "a", "-y").stdout
    assert store.names() == ["b", "other"]
    shutil.rmtree(store.root / "b")
    assert withdraw(open_ledger(store.root), store, "b").adapter is None and store.names() == ["other"]


def test_a_withdrawal_leaves_an_adapter_of_somebody_else_that_has_the_request_s_name(store):
    store.rename("a", "x")  # as by an earlier version
    mine = add(store, "a", seed=12).fingerprint
    done = call("withdraw", "a", "-y")
    assert "Its adapter x is removed." in done.stdout and "a in " in done.stderr
    assert store.names() == ["a", "b", "other"] and store.get("a").manifest.fingerprint == mine
    store.remove("b")
    add(store, "b", seed=13)
    done = call("withdraw", "b", "-y")
    assert "It had no adapter." in done.stdout and "not trained for this request" in done.stderr
    assert store.names() == ["a", "b", "other"], "what a runner finishes later leaves it, too"
    assert finish_withdrawals(open_ledger(store.root), store) == [] and store.names() == ["a", "b", "other"]
