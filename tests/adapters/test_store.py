"""The adapter store in one process: names, staging, looking, and errors of one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from asu_lora.adapters.manifest import WEIGHTS_NAME
from asu_lora.adapters.store import AdapterStore
from asu_lora.adapters.verify import verify_adapter
from asu_lora.errors import AdapterError, AsuLoraError, StoreError
from tests.support.adapter_folders import add, empty_store, files_of, fill, in_memory, leftovers, truncate, write_lora
from tests.support.full_disk import no_file_above

tmp_path, store = in_memory, empty_store


# ---- adding and looking


def test_looking_creates_nothing(store):
    assert store.list() == []
    with pytest.raises(StoreError, match="is empty"):
        store.get("a")
    assert not store.root.exists()


def test_what_is_staged_appears_when_the_block_ends(store):
    with store.stage("a") as folder:
        fill(folder, "a")
        assert store.list() == []
        assert folder.parent.parent == store.root
    found = store.get("a")
    assert [adapter.name for adapter in store.list()] == ["a"]
    assert found.state == "ready"
    assert found.manifest.request.forget_rows == 20
    assert found.adapter_config["r"] == 4
    assert found.size_bytes == sum(path.stat().st_size for path in found.path.iterdir())
    assert leftovers(store) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing_behind(store, error):
    add(store, "a")
    before = files_of(store.root)
    with pytest.raises(error), store.stage("b") as folder:
        fill(folder, "b")
        raise error
    assert files_of(store.root) == before
    assert leftovers(store) == []


def test_what_is_no_adapter_is_not_stored(store):
    with pytest.raises(StoreError, match=r"no adapter_config\.json"), store.stage("a") as folder:
        (folder / "notes.txt").write_text("nothing else")
    with pytest.raises(StoreError, match="cut off"), store.stage("a") as folder:
        truncate(fill(folder, "a") / WEIGHTS_NAME)
    assert store.list() == []
    assert leftovers(store) == []


def test_a_name_is_taken_once_unless_replaced(store):
    add(store, "a", seed=1)
    with pytest.raises(StoreError, match="already has an adapter a"):
        store.check_name("a")
    with pytest.raises(StoreError, match="already has an adapter a"), store.stage("a"):
        pytest.fail("the name is taken")
    first = store.get("a").fingerprint
    add(store, "a", seed=2, replace=True)
    assert store.get("a").fingerprint != first
    assert verify_adapter(store.get("a").path).ok
    assert leftovers(store) == []


def test_a_failed_replacement_keeps_the_old_one(store):
    add(store, "a", seed=1)
    before = files_of(store.root)
    with pytest.raises(RuntimeError), store.stage("a", replace=True) as folder:
        fill(folder, "a", seed=2)
        raise RuntimeError
    assert files_of(store.root) == before


def test_a_name_is_reserved_while_it_is_being_made(store):
    add(store, "c")
    with store.stage("a-b") as folder:
        for taken in (lambda: store.check_name("a-b"), lambda: store.rename("c", "a-b")):
            with pytest.raises(StoreError, match="being made by another process"):
                taken()
        store.check_name("a")  # only this very name
        fill(folder, "a-b")
    assert store.names() == ["a-b", "c"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "/etc", ".hidden", "-x", "a b", "ä", "a\n", "a" * 101, "a\0"]
)
def test_odd_names_are_refused(store, name):
    add(store, "kept")
    before = files_of(store.root.parent)
    for attempt in (
        lambda: store.check_name(name),
        lambda: store.stage(name).__enter__(),
        lambda: store.rename("kept", name),
    ):
        with pytest.raises(StoreError, match="can't be an adapter's name") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert files_of(store.root.parent) == before


def test_good_names_are_taken(store):
    for name in ("a", "7b", "harry_potter-v1.2", "a" * 100, "lock", "A..b"):
        add(store, name)
        assert store.get(name).state == "ready"


def test_an_unknown_name_is_answered_with_those_that_come_close(store):
    add(store, "harry-potter")
    add(store, "zebra")
    with pytest.raises(StoreError, match=r"did you mean harry-potter\?"):
        store.get("hary-poter")
    with pytest.raises(StoreError, match="it has harry-potter, zebra"):
        store.remove("q")
    for outside in ("../adapters/zebra", ".staging", ".", ""):
        with pytest.raises(StoreError, match="There is no adapter"):
            store.remove(outside)
    assert store.names() == ["harry-potter", "zebra"]


def test_other_files_in_the_store_are_no_adapters(store):
    add(store, "a")
    (store.root / "README.md").write_text("about")
    (store.root / ".git").mkdir()
    assert store.names() == ["a"]


def test_resolve_takes_names_and_paths(store, tmp_path):
    add(store, "a")
    outside = write_lora(tmp_path / "elsewhere")
    assert store.resolve("a") == store.root / "a"
    assert store.resolve(outside) == outside
    assert store.resolve(str(store.root / "a")) == store.root / "a"
    with pytest.raises(StoreError, match="There is no adapter nope"):
        store.resolve("nope")
    with pytest.raises(AdapterError, match=r"no adapter_config\.json"):
        store.resolve(tmp_path)
    truncate(outside / WEIGHTS_NAME)
    with pytest.raises(AdapterError, match="broken"):
        store.resolve(outside)
    archive = store.export("a", tmp_path / "a.zip")
    with pytest.raises(StoreError, match="adapters import"):
        store.resolve(archive)


# ---- what all of it has in common


def test_no_torch_for_anything_the_store_does(tmp_path):
    script = (
        "import sys\n"
        "from asu_lora.adapters.store import AdapterStore\n"
        "store = AdapterStore(sys.argv[1])\n"
        "store.list(); store.rename('a', 'b'); store.verify('b')\n"
        "store.export('b', sys.argv[1] + '/../b.tar.gz')\n"
        "store.import_(sys.argv[1] + '/../b.tar.gz', 'c'); store.remove('b')\n"
        "assert not {'torch', 'peft', 'transformers'} & set(sys.modules), sorted(sys.modules)\n"
    )
    add(AdapterStore(tmp_path / "adapters"), "a")
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "adapters")], check=True)


def test_every_error_is_one_sentence(store):
    add(store, "a")
    for attempt in (
        lambda: store.get("b"),
        lambda: store.check_name("a"),
        lambda: store.check_name("../a"),
        lambda: store.resolve("b"),
        lambda: store.rename("a", "a"),
        lambda: store.import_("nowhere"),
    ):
        with pytest.raises(AsuLoraError) as caught:
            attempt()
        text = str(caught.value)
        assert "\n" not in text
        assert text[-1] in ".?"


def test_a_store_below_a_file_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    store = AdapterStore(tmp_path / "file" / "store")
    for act in (lambda: store.check_name("a"), store.names, lambda: store.resolve("a")):
        with pytest.raises(StoreError, match="Not a directory") as caught:
            act()
        assert "\n" not in str(caught.value)


def test_a_disk_that_fills_while_weights_are_written_is_one_sentence(store):
    """safetensors has an error of its own for it; of other errors in the block nothing is said of the disk."""
    refused = pytest.raises(StoreError, match=r"can't be changed: File too large\.")
    with refused, store.stage("big") as folder, no_file_above(1000):
        save_file({"a": torch.zeros(100_000)}, folder / WEIGHTS_NAME)
    with pytest.raises(FileNotFoundError), store.stage("big"):
        Path("/nowhere/at/all").read_text()
    with pytest.raises(SafetensorError), store.stage("big"):
        load_file(__file__)
    assert "big" not in store.names()
