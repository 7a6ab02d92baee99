"""What lies behind a queue for years, audited and without its text, costs a run no look at the store each."""

from asu_lora.adapters.store import AdapterStore
from asu_lora.progress import Progress
from asu_lora.requests.runner.follow_up import follow_up
from tests.support.request_queue import finds


def looks(queue, monkeypatch, count: int) -> int:
    """How often the store is looked at by what follows a run, with so many old requests."""
    with queue.ledger.changing() as change:
        for number in range(len(queue.ledger.requests()), count):
            name, told = f"old{number}", {"due": "2999-01-01T00:00:00Z"}
            (queue.store.root / name).mkdir()
            for event in ("received", "queued", "training", "trained", "audited", "text-destroyed"):
                change.append(event, name, told | {"adapter": name})
    seen, names = [], AdapterStore.names

    def counted(store):
        seen.append(store)
        return names(store)

    with monkeypatch.context() as patched:
        patched.setattr(AdapterStore, "names", counted)
        done = follow_up(queue.shop(finds()), Progress(), seen.append)
    assert done.not_re_audited == {f"old{number}": "its text is destroyed" for number in range(count)}
    return len(seen)


def test_a_run_looks_at_the_store_as_often_whatever_has_lost_its_text(queue, monkeypatch):
    assert looks(queue, monkeypatch, 3) == looks(queue, monkeypatch, 12)


def test_one_whose_adapter_is_missing_too_is_said_to_miss_that(queue, monkeypatch):
    looks(queue, monkeypatch, 3)
    (queue.store.root / "old1").rmdir()
    done = follow_up(queue.shop(finds()), Progress(), print)
    assert done.not_re_audited["old1"] == "its adapter is not in the store"
