"""The adapter store in one process: names, staging, listing, renaming, removing, states of adapters."""

import json
import os
import subprocess
import sys

import pytest

from asu_lora import files as atomic
from asu_lora.adapters.manifest import WEIGHTS_NAME, read_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.adapters.verify import verify_adapter
from asu_lora.errors import AdapterError, AsuLoraError, StoreError
from tests.support.adapter_folders import (
    add,
    empty_store,
    files_of,
    fill,
    flip_byte,
    in_memory,
    leftovers,
    on,
    truncate,
    write_lora,
)

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


# ---- the state of what is there, without reading weights


def broken_folders():
    def cut(folder):
        truncate(folder / WEIGHTS_NAME)

    def no_weights(folder):
        (folder / WEIGHTS_NAME).unlink()

    def no_config(folder):
        (folder / "adapter_config.json").unlink()

    def bad_config(folder):
        (folder / "adapter_config.json").write_text("{")

    def other_method(folder):
        (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}')

    def no_rank(folder):
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": "8"}')

    def bad_manifest(folder):
        (folder / "manifest.json").write_text("[1]")

    def no_card(folder):
        (folder / "README.md").unlink()

    def no_header(folder):
        (folder / WEIGHTS_NAME).write_bytes(b"\x80\x04.")

    return [cut, no_weights, no_config, bad_config, other_method, no_rank, bad_manifest, no_card, no_header]


@pytest.mark.parametrize("damage", broken_folders(), ids=lambda damage: damage.__name__)
def test_a_broken_adapter_is_listed_as_such_and_can_be_removed(store, damage):
    add(store, "a")
    add(store, "b")
    damage(store.root / "b")
    states = {adapter.name: adapter.state for adapter in store.list()}
    assert states["a"] == "ready"
    assert states["b"].startswith("broken: ")
    assert not store.verify("b").ok
    with pytest.raises(AdapterError):
        store.resolve("b")
    store.remove("b")
    assert store.names() == ["a"]


def test_listing_reads_no_weights(store):
    add(store, "a")
    flip_byte(store.root / "a" / WEIGHTS_NAME, -5)
    assert store.get("a").state == "ready"
    assert not store.verify("a").ok


def test_an_adapter_without_manifest_is_imported(store):
    write_lora(store.root / "plain")
    found = store.get("plain")
    assert (found.state, found.manifest, found.base_id) == ("imported", None, "org/base")
    assert found.fingerprint == atomic.sha256_file(found.path / WEIGHTS_NAME)


def test_a_folder_moved_by_hand_goes_by_its_new_name(store):
    add(store, "a")
    os.rename(store.root / "a", store.root / "b")
    assert store.get("b").manifest.name == "b"


# ---- renaming and removing


def test_rename_changes_manifest_card_and_references(store):
    add(store, "a", seed=1)
    add(store, "b", seed=2, on_top_of=[on(store, "a", 0.5)])
    add(store, "c", seed=3)
    untouched = files_of(store.root / "c")
    fingerprint = store.get("a").fingerprint
    store.rename("a", "z")
    assert store.names() == ["b", "c", "z"]
    assert read_manifest(store.root / "z").name == "z"
    assert (store.root / "z" / "README.md").read_text().count("# z\n") == 1
    below = store.get("b").manifest.on_top_of[0]
    assert (below.name, below.fingerprint, below.weight) == ("z", fingerprint, 0.5)
    assert "`z` at weight 0.5" in (store.root / "b" / "README.md").read_text()
    assert [adapter.name for adapter in store.dependents("z")] == ["b"]
    assert all(store.verify(name).ok for name in store.names())
    assert files_of(store.root / "c") == untouched


def test_rename_does_not_bless_a_damaged_file(store):
    add(store, "a")
    flip_byte(store.root / "a" / WEIGHTS_NAME, -5)
    store.rename("a", "b")
    assert any(WEIGHTS_NAME in problem for problem in store.verify("b").problems)


def test_rename_refuses_a_taken_name(store):
    add(store, "a", seed=1)
    add(store, "b", seed=2)
    before = files_of(store.root)
    with pytest.raises(StoreError, match="already has an adapter b"):
        store.rename("a", "b")
    with pytest.raises(StoreError, match="There is no adapter x"):
        store.rename("x", "y")
    assert files_of(store.root) == before


def test_remove_leaves_the_others_as_they_were_and_names_those_above(store):
    add(store, "a", seed=1)
    add(store, "b", seed=2, on_top_of=[on(store, "a")])
    add(store, "c", seed=3, on_top_of=[on(store, "a"), on(store, "b")])
    others = {name: files_of(store.root / name) for name in "bc"}
    assert [adapter.name for adapter in store.remove("a")] == ["b", "c"]
    assert {name: files_of(store.root / name) for name in "bc"} == others
    assert store.missing_beneath("c") == ["a"]
    assert store.missing_beneath("b") == ["a"]
    assert leftovers(store) == []


def test_an_adapter_replaced_beneath_another_is_not_the_one_it_stood_on(store):
    add(store, "a", seed=1)
    add(store, "b", seed=2, on_top_of=[on(store, "a")])
    assert store.missing_beneath("b") == []
    add(store, "a", seed=9, replace=True)
    assert store.missing_beneath("b") == ["a"]


def test_removing_a_link_leaves_what_it_leads_to(store, tmp_path):
    outside = fill(tmp_path / "outside", "outside")
    store.root.mkdir()
    (store.root / "linked").symlink_to(outside)
    assert store.get("linked").state == "ready"
    store.remove("linked")
    assert store.names() == []
    assert verify_adapter(outside).ok


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


def test_adapters_as_plain_values_are_json(store):
    add(store, "a")
    write_lora(store.root / "plain")
    values = json.loads(json.dumps([adapter.as_dict() for adapter in store.list()]))
    assert values[0]["manifest"]["figures"]["after"]["forget_probability"] == 0.082
    assert values[1]["manifest"] is None


def test_a_store_below_a_file_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    store = AdapterStore(tmp_path / "file" / "store")
    for act in (lambda: store.check_name("a"), store.names, lambda: store.resolve("a")):
        with pytest.raises(StoreError, match="Not a directory") as caught:
            act()
        assert "\n" not in str(caught.value)
