"""Finished adapters at an address: whole or not there, compared after the upload, gone with a withdrawal."""

import json
import shutil

import fsspec
import pytest

from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import SettingError, StoreError
from asu_lora.requests.results import ResultStore
from asu_lora.requests.runner.run import run
from asu_lora.requests.withdrawal import withdraw
from tests.support.adapter_folders import add
from tests.support.request_queue import counting_audit


@pytest.fixture(params=["file", "memory"])
def results(request, tmp_path):
    if request.param == "file":
        yield ResultStore(f"file://{tmp_path / 'results' / 'adapters'}")
        return
    yield ResultStore("memory://bucket/adapters")
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


@pytest.fixture
def store(tmp_path) -> AdapterStore:
    store = AdapterStore(tmp_path / "store")
    add(store, "a")
    return store


def left_over(results) -> list[str]:
    """Files that are neither announced nor an announcement."""
    names = results.names()
    paths = [str(path).partition(results.root.strip("/"))[2].strip("/") for path in results.files.find(results.root)]
    return [path for path in paths if path.partition("/")[0] not in (*names, ".published")]


def test_what_is_published_is_what_is_fetched(results, store, tmp_path):
    assert results.names() == [] and results.find("a") is None
    published = results.publish(store.root / "a", "a")
    assert results.names() == ["a"] and results.find("a") == published and left_over(results) == []
    other = AdapterStore(tmp_path / "other")
    results.fetch("a", other, published.fingerprint)
    assert other.verify("a").ok
    for file in (store.root / "a").iterdir():
        assert (other.root / "a" / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(StoreError, match="another than the one that was trained"):
        results.fetch("a", AdapterStore(tmp_path / "third"), "0" * 64)
    assert results.remove("a") and not results.remove("a") and results.names() == [] and left_over(results) == []


def test_the_same_is_sent_once_and_another_takes_its_place_whole(results, store, monkeypatch):
    sent = []
    put = results.files.put_file
    monkeypatch.setattr(results.files, "put_file", lambda *words, **more: (sent.append(words), put(*words, **more))[1])
    results.publish(store.root / "a", "a")
    count = len(sent)
    results.publish(store.root / "a", "a")
    assert count and len(sent) == count
    (store.root / "a" / "audit.json").write_text("{}")
    assert "audit.json" in results.publish(store.root / "a", "a").files and len(sent) == 2 * count + 1


def test_bytes_that_changed_on_the_way_are_not_announced(results, store, monkeypatch):
    put = results.files.put_file

    def spoiling(source, target, **more):
        put(source, target, **more)
        if target.endswith("adapter_model.safetensors"):
            results.files.pipe_file(target, results.files.cat_file(target)[:-1] + b"!")

    monkeypatch.setattr(results.files, "put_file", spoiling)
    with pytest.raises(StoreError, match=r"adapter_model\.safetensors of a arrived at .* as something else"):
        results.publish(store.root / "a", "a")
    assert results.names() == [] and left_over(results) == []


def test_an_upload_that_was_cut_off_shows_nothing_and_is_swept_by_the_next(results, store, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*words, **more):
        raise Killed

    for step in ("_compare", "_move", "_announce"):
        with monkeypatch.context() as patch:
            patch.setattr(results, step, killed)
            patch.setattr(results.files, "rm", killed)  # as a kill, which tidies nothing
            with pytest.raises(Killed):
                results.publish(store.root / "a", "a")
        assert results.names() == []
    results.publish(store.root / "a", "a")
    assert results.names() == ["a"] and left_over(results) == []


def test_what_was_changed_at_the_address_is_not_taken(results, store, tmp_path):
    results.publish(store.root / "a", "a")
    weights = f"{results.root}/a/adapter_model.safetensors"
    whole = results.files.cat_file(weights)
    results.files.pipe_file(weights, whole[:-1] + bytes([whole[-1] ^ 1]))
    other = AdapterStore(tmp_path / "other")
    with pytest.raises(StoreError, match="is not what was announced"):
        results.fetch("a", other)
    results.files.pipe_file(weights, whole)
    announced = f"{results.root}/.published/a.json"
    told = json.loads(results.files.cat_file(announced))
    told["files"] = {"../../outside": "0" * 64}
    results.files.pipe_file(announced, json.dumps(told).encode())
    with pytest.raises(StoreError, match="makes no sense"):
        results.fetch("a", other)
    assert other.names() == []


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("adapters", "no address"),
        ("nothing://bucket", "Adapters can't be put at"),
        ("ftp://me:secret@host/x", "holds a password"),
    ],
)
def test_an_address_that_is_none_is_one_sentence(address, said):
    with pytest.raises(SettingError, match=said) as error:
        ResultStore(address)
    assert "secret" not in str(error.value)


def test_an_address_that_refuses_ends_in_a_sentence(tmp_path, store):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"can't (be read|take a)"):
        ResultStore(f"file://{tmp_path / 'file'}/adapters").publish(store.root / "a", "a")


def test_a_queue_publishes_what_it_trains_and_another_machine_goes_on_with_it(queue):
    address = f"file://{queue.root / 'results'}"
    queue.add("a")
    queue.run()  # before there was an address
    queue.add("b", "c")
    here = ResultStore(address)
    report = run(queue.shop(results=address))
    assert here.names() == ["a", "b", "c"] and report.follow_up.published == ["a"]
    assert queue.ledger.history("b", ["trained"])[0].payload["published"] == address
    shutil.rmtree(queue.store.root / "b")  # as on a machine that has a store of its own
    seen = []
    run(queue.shop(counting_audit(seen), results=address, consolidate=3))
    assert queue.store.verify("b").ok and "combined-001" in here.names() and ("b",) in seen
    withdraw(queue.ledger, queue.store, "b")
    assert here.names() == ["a", "c", "combined-001"]
    here.publish(queue.store.root / "c", "b")  # as a runner would that was killed before it heard of the withdrawal
    assert run(queue.shop(results=address)).withdrawn == ["b"] and "b" not in here.names()
