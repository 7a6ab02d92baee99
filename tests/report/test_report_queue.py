"""The requests on the page are those of the ledger, in its order."""

from datetime import UTC, datetime, timedelta

from click.testing import CliRunner

from asu_lora.adapters.store import AdapterStore
from asu_lora.cli import main
from asu_lora.report.queue import read_queue
from asu_lora.requests.ledger.ledger import open_ledger
from tests.support.adapter_folders import add, files_of


def day(number: int) -> str:
    return (datetime.now(UTC) + timedelta(days=number)).strftime("%Y-%m-%dT%H:%M:%SZ")


def ledger_of(store: AdapterStore) -> None:
    """Three requests: one late, one served, one that failed."""
    ledger = open_ledger(store.root, create=True)
    for ticket, due in (("T-1", day(-3)), ("T-2", day(9)), ("T-3", day(20))):
        ledger.record("received", ticket, {"due": due, "owner": "Ada <b>", "basis": "Art. 17", "note": None})
    ledger.record("queued", "T-2", {"rows": 4})
    ledger.record("training", "T-2")
    ledger.record("trained", "T-2", {"adapter": "T-2"})
    ledger.record("deployed", "T-2", {"artefact": "T-2", "hash": "ab" * 32})
    ledger.record("served", None, {"name": "T-2", "kind": "adapter", "hash": "ab" * 32, "requests": ["T-2"]})
    ledger.record("failed", "T-3", {"sentence": "The file has no rows."})


def test_store_without_a_ledger_has_no_queue_and_gets_none(tmp_path):
    store = AdapterStore(tmp_path)
    assert read_queue(store) is None
    assert list(tmp_path.iterdir()) == []


def test_queue_is_the_ledgers(tmp_path):
    store = AdapterStore(tmp_path)
    ledger_of(store)
    queue = read_queue(store)
    assert [(request.id, request.state) for request in queue.requests] == [
        ("T-1", "received"), ("T-3", "failed"), ("T-2", "deployed"),
    ]  # fmt: skip
    assert (queue.open, queue.overdue) == (2, 1)
    assert queue.served[-1].requests == ["T-2"] and queue.served[-1].where is None
    ledger = open_ledger(store.root)
    ledger.record("re-audited", "T-2", {"worst": 0.25})
    assert read_queue(store).worst == {"T-2": 0.25}
    ledger.record("withdrawn", "T-2")
    assert read_queue(store).worst == {}


def test_page_shows_the_queue_and_changes_nothing(tmp_path):
    store = AdapterStore(tmp_path / "store")
    add(store, "T-2")
    ledger_of(store)
    before = files_of(store.root)
    ran = CliRunner().invoke(main, ["report", "--store", str(store.root), "--out", str(tmp_path / "page.html")])
    assert ran.exit_code == 0, ran.output
    page = (tmp_path / "page.html").read_text()
    assert (tmp_path / "page.html").stat().st_mode & 0o077 == 0  # as the ledger, whose names it holds
    assert "T-1, received, was due" in page and "T-3: The file has no rows." in page
    assert "Ada &lt;b&gt;" in page and "Ada <b>" not in page
    assert '<a href="#adapter-T-2">T-2</a>' in page
    assert files_of(store.root) == before


def test_database_that_is_none_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("ASU_LORA_DATABASE", "nonsense://")
    ran = CliRunner().invoke(main, ["report", "--store", str(tmp_path), "--out", str(tmp_path / "page.html")])
    assert ran.exit_code == 2 and ran.stderr.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_requests_of_another_store_are_on_no_page(tmp_path, monkeypatch):
    ours, other = AdapterStore(tmp_path / "ours"), AdapterStore(tmp_path / "other")
    add(ours, "a")
    add(other, "b")
    ledger_of(ours)
    monkeypatch.setenv("ASU_LORA_DATABASE", f"sqlite:///{ours.root}/.requests/ledger.sqlite")
    assert len(read_queue(ours).requests) == 3
    result = CliRunner().invoke(main, ["report", "--store", str(other.root)])
    assert result.exit_code == 2 and "is that of another store" in result.stderr
    assert not (other.root / "report.html").exists()
