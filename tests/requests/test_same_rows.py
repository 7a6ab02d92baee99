"""Two requests of the same rows have adapters of the very same weights: each is still one of its own."""

import pytest

from asu_lora.adapters.combine import combine
from asu_lora.adapters.store import AdapterStore
from asu_lora.requests.ledger.ledger import open_ledger
from asu_lora.requests.withdrawal import finish_withdrawals, holders, withdraw
from tests.support.adapter_folders import add


@pytest.fixture
def store(tmp_path):
    return AdapterStore(tmp_path / "store")


@pytest.fixture
def ledger(store):
    """The requests a and b, whose adapters are alike."""
    ledger = open_ledger(store.root, create=True)
    for name in "ab":
        ledger.record("received", name, {"due": "2999"})
        for event in ("queued", "training"):
            ledger.record(event, name)
        ledger.record("trained", name, {"adapter": name, "fingerprint": add(store, name, seed=1).fingerprint})
    return ledger


def test_a_withdrawal_leaves_the_adapter_of_another_request_of_the_same_rows(store, ledger):
    store.remove("a")  # by hand
    assert withdraw(ledger, store, "a").adapter is None
    assert store.names() == ["b"] and ledger.get("b").stands


def test_a_withdrawal_that_was_killed_after_its_adapter_went_takes_no_other(store, ledger):
    ledger.record("withdrawn", "a", {"adapter": "a"})
    store.remove("a")
    assert finish_withdrawals(ledger, store) == ["a"]
    assert store.names() == ["b"] and ledger.get("a").adapter is None


def test_the_other_request_s_adapter_is_not_called_one_that_still_holds_it(store, ledger):
    add(store, "c", seed=2)
    for name, parts in (("with a", "ac"), ("with b", "bc")):
        with store.stage(name.replace(" ", "-")) as folder:
            combine([store.root / part for part in parts], [1.0, 1.0], folder, None, name)
    assert holders(ledger, store, "a") == ["with-a"] and holders(ledger, store, "b") == ["with-b"]
    store.rename("b", "copy")  # as somebody's own copy, it is
    assert holders(ledger, store, "a") == ["copy", "with-a"]
