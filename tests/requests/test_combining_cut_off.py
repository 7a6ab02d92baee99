"""A run that is killed before its combined adapter is recorded leaves nothing for good, in the store or elsewhere."""

import pytest

from asu_lora.requests.runner.run import run
from asu_lora.requests.withdrawal import withdraw
from tests.support.adapter_folders import write_lora


def killed(queue, address):
    """A run that is killed with its combined adapter written, and sent to the address."""
    shop = queue.shop(consolidate=2, results=address)
    publish = shop.publish

    def publish_and_die(name):
        told = publish(name)
        if name.startswith("combined"):
            raise KeyboardInterrupt
        return told

    shop.publish = publish_and_die
    with pytest.raises(KeyboardInterrupt):
        run(shop)
    assert "combined-001" in queue.store.names() and not queue.ledger.consolidated()


@pytest.fixture
def address(tmp_path):
    return f"file://{tmp_path / 'published'}"


def test_the_next_run_takes_its_name_and_leaves_one(queue, address):
    queue.add("a", "b")
    killed(queue, address)
    withdraw(queue.ledger, queue.store, "a")  # the sum that was left holds it
    queue.add("c")
    shop = queue.shop(consolidate=2, results=address)
    assert run(shop).follow_up.combined == {"combined-001": 2}
    assert queue.store.names() == ["b", "c", "combined-001"] == shop.results.names()
    assert queue.ledger.consolidated()[-1].payload["requests"] == ["b", "c"]
    made = queue.store.get("combined-001").manifest.fingerprint
    assert shop.results.find("combined-001").fingerprint == made and queue.ledger.verify().whole


def test_a_run_that_combines_nothing_removes_it_too_and_touches_nothing_later(queue, address):
    queue.add("a", "b")
    killed(queue, address)
    queue.run()
    shop = queue.shop(results=address)
    assert queue.store.names() == ["a", "b"] == shop.results.names()
    write_lora(queue.store.root / "combined-001")  # somebody's own
    queue.run()
    assert "combined-001" in queue.store.names()
