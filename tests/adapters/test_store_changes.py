"""Renaming and removing adapters: manifests, cards and those above follow."""

import pytest

from asu_lora.adapters.manifest import WEIGHTS_NAME, read_manifest
from asu_lora.adapters.verify import verify_adapter
from asu_lora.errors import StoreError
from tests.support.adapter_folders import add, empty_store, files_of, fill, flip_byte, in_memory, leftovers, on

tmp_path, store = in_memory, empty_store


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
