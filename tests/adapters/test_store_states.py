"""The state of what lies in the store, told without reading weights: ready, imported, broken."""

import json
import os

import pytest

from asu_lora import files as atomic
from asu_lora.adapters.manifest import WEIGHTS_NAME
from asu_lora.errors import AdapterError
from tests.support.adapter_folders import add, empty_store, flip_byte, in_memory, truncate, write_lora

tmp_path, store = in_memory, empty_store


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


def test_adapters_as_plain_values_are_json(store):
    add(store, "a")
    write_lora(store.root / "plain")
    values = json.loads(json.dumps([adapter.as_dict() for adapter in store.list()]))
    assert values[0]["manifest"]["figures"]["after"]["forget_probability"] == 0.082
    assert values[1]["manifest"] is None
