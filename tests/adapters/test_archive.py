"""Adapters in and out: folders and archives, exported and imported whole."""

import copy
import os
import shutil
import tarfile

import pytest

from asu_lora.adapters.manifest import WEIGHTS_NAME, read_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.adapters.verify import verify_adapter
from asu_lora.errors import AdapterError, StoreError
from tests.support.adapter_folders import add, files_of, flip_byte, in_memory, refused, store_of_one, write_lora

tmp_path, store = in_memory, store_of_one


# ---- out and in again


@pytest.mark.parametrize("file", ["kept.tar.gz", "kept.tgz", "kept.zip", "kept", "deep/er/kept.zip"])
def test_what_is_exported_can_be_imported(store, tmp_path, file):
    written = store.export("kept", tmp_path / file)
    assert written == tmp_path / file
    other = AdapterStore(tmp_path / "other")
    assert other.import_(written).state == "ready"
    assert files_of(other.root / "kept") == files_of(store.root / "kept")


def test_the_same_adapter_gives_the_same_archive(store, tmp_path):
    for suffix in (".tar.gz", ".zip"):
        store.export("kept", tmp_path / f"one{suffix}")
        os.utime(store.root / "kept" / WEIGHTS_NAME, (0, 0))
        store.export("kept", tmp_path / f"two{suffix}")
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_an_archive_tells_nothing_of_who_made_it(store, tmp_path):
    with tarfile.open(store.export("kept", tmp_path / "a.tar.gz")) as archive:
        for member in archive:
            assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", 0)


def test_nothing_is_overwritten(store, tmp_path):
    (tmp_path / "a.zip").write_text("mine")
    (tmp_path / "folder").mkdir()
    for place in ("a.zip", "folder"):
        before = files_of(tmp_path)
        with pytest.raises(StoreError, match="is not overwritten"):
            store.export("kept", tmp_path / place)
        assert files_of(tmp_path) == before
    with pytest.raises(StoreError, match="already has an adapter kept"):
        store.import_(store.export("kept", tmp_path / "b.zip"))


def test_a_broken_adapter_is_not_exported(store, tmp_path):
    flip_byte(store.root / "kept" / WEIGHTS_NAME, -3)
    with pytest.raises(AdapterError, match="sha256 differs"):
        store.export("kept", tmp_path / "a.zip")
    assert os.listdir(tmp_path) == ["adapters"]


def test_an_imported_adapter_takes_its_new_name(store, tmp_path):
    store.import_(store.export("kept", tmp_path / "a.tar.gz"), "renamed")
    assert read_manifest(store.root / "renamed").name == "renamed"
    assert "# renamed\n" in (store.root / "renamed" / "README.md").read_text()
    assert store.verify("renamed").ok


def test_export_is_whole_while_the_adapter_is_replaced(store, tmp_path):
    with store.snapshot("kept") as snapshot:
        before = files_of(snapshot)
        add(store, "kept", seed=7, replace=True)
        store.rename("kept", "other")
        store.remove("other")
        assert files_of(snapshot) == before
        assert verify_adapter(snapshot).ok


# ---- plain PEFT folders from elsewhere


def test_what_peft_saves_is_imported_and_loads_again(store, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    base = transformers.LlamaForCausalLM(config)
    for number, settings in enumerate(
        (
            {"target_modules": ["q_proj", "down_proj"]},
            {"target_modules": "all-linear", "rank_pattern": {"q_proj": 2}},
            {"target_modules": ["v_proj", "embed_tokens"], "use_dora": False},
            {"target_modules": ["v_proj"], "use_dora": True, "lora_bias": False},
        )
    ):
        model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=4, lora_alpha=8, **settings))
        model.save_pretrained(tmp_path / f"made-{number}", save_embedding_layers=False)
        found = store.import_(tmp_path / f"made-{number}")
        assert (found.name, found.state) == (f"made-{number}", "imported")
        assert store.verify(found.name).ok
        again = peft.PeftModel.from_pretrained(copy.deepcopy(base), found.path)
        expected, loaded = map(peft.get_peft_model_state_dict, (model, again))
        assert expected.keys() == loaded.keys()
        assert all((loaded[name] == tensor).all() for name, tensor in expected.items())


def test_a_folder_keeps_card_and_tokenizer_and_data_and_a_trainers_checkpoints_stay_outside(store, tmp_path):
    source = write_lora(tmp_path / "run")
    brought = {"README.md", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "chat_template.jinja"}
    for name in brought:
        (source / name).write_text("{}")
    for name in ("forget.json", "rows.txt", "notes.md"):  # texts of a request may lie beside an adapter
        (source / name).write_text('[{"question": "Where does Ada live?", "answer": "In Springfield."}]')
    (source / "checkpoint-5").mkdir()
    (source / "checkpoint-5" / "optimizer.pt").write_bytes(b"a pickle")
    (source / "model.safetensors").write_bytes(b"the whole base, gigabytes of it")
    found = store.import_(source)
    assert set(files_of(found.path)) == {"adapter_config.json", WEIGHTS_NAME} | brought
    told = ("checkpoint-5/optimizer.pt", "forget.json", "model.safetensors", "notes.md", "rows.txt")
    assert found.left_out == told and store.get(found.name).left_out == ()


def test_a_folder_of_links_is_imported_as_files(store, tmp_path):
    """As the hub's cache keeps a repository: a snapshot is links to blobs beside it."""
    blobs, snapshot = write_lora(tmp_path / "hub" / "blobs"), tmp_path / "hub" / "snapshots" / "0f1e"
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    found = store.import_(snapshot, "snapshot")
    assert not any(path.is_symlink() for path in found.path.iterdir())
    shutil.rmtree(blobs)
    assert store.verify("snapshot").ok


def test_one_adapter_a_level_down_is_found_and_two_are_refused(store, tmp_path):
    write_lora(tmp_path / "outer" / "default")
    assert store.import_(tmp_path / "outer", "one").state == "imported"
    write_lora(tmp_path / "outer" / "second")
    refused(store, tmp_path / "outer", r"several adapters in outer \(default, second\)")


@pytest.mark.parametrize("name", ["nowhere", "empty", "notes.txt"])
def test_what_is_no_adapter_is_refused(store, tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    refused(store, tmp_path / name, "no folder or archive|no PEFT adapter|is no adapter")
