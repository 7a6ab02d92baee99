"""Adapters in and out: folders and archives, whole ones, broken ones, and archives that mean harm."""

import copy
import io
import os
import random
import shutil
import stat
import tarfile
import zipfile

import pytest
from safetensors.numpy import load_file

from asu_lora.adapters import archive as archives
from asu_lora.adapters.archive import unpack
from asu_lora.adapters.manifest import WEIGHTS_NAME, read_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.adapters.verify import verify_adapter
from asu_lora.errors import AdapterError, AsuLoraError, StoreError
from tests.support.adapter_folders import (
    add,
    entries,
    files_of,
    flip_byte,
    in_memory,
    refused,
    store_of_one,
    tar_of,
    write_lora,
)

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


def test_a_folder_keeps_its_other_files_and_a_trainers_checkpoints_stay_outside(store, tmp_path):
    source = write_lora(tmp_path / "run")
    (source / "tokenizer_config.json").write_text("{}")
    (source / "checkpoint-5").mkdir()
    (source / "checkpoint-5" / "optimizer.pt").write_bytes(b"a pickle")
    (source / "model.safetensors").write_bytes(b"the whole base, gigabytes of it")
    assert set(files_of(store.import_(source).path)) == {"adapter_config.json", WEIGHTS_NAME, "tokenizer_config.json"}


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


# ---- archives that mean harm


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "name", ["../out", "a/../../out", "/{tmp}/out", "a\\..\\out", "C:/out", "..", "a/b/../../../out"]
)
def test_a_path_that_climbs_out_is_refused(store, tmp_path, name):
    name = name.replace("/{tmp}", str(tmp_path))
    good = entries(write_lora(tmp_path / "a"))
    refused(store, tar_of(tmp_path / "bad.tar.gz", {**good, name: b"x"}), "leaves its folder")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        for path, content in {**good, name: b"x"}.items():
            archive.writestr(path, content)
    refused(store, tmp_path / "bad.zip", "leaves its folder")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(store, tmp_path, kind):
    good = entries(write_lora(tmp_path / "a"))
    bad = tar_of(tmp_path / "bad.tar.gz", {"a/README.md": link(kind, "/etc/passwd"), **good})
    refused(store, bad, "a link or a device")


def test_a_link_in_a_zip_is_refused(store, tmp_path):
    info = zipfile.ZipInfo("a/README.md")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        for path, content in entries(write_lora(tmp_path / "a")).items():
            archive.writestr(path, content)
        archive.writestr(info, "/etc/passwd")
    refused(store, tmp_path / "bad.zip", "a link or a device")


@pytest.mark.parametrize("name", ["a/adapter_model.bin", "a/training_args.bin", "a/x.PT", "a/deep/state.pkl"])
def test_a_pickle_in_an_archive_is_refused(store, tmp_path, name):
    good = entries(write_lora(tmp_path / "a"))
    refused(store, tar_of(tmp_path / "bad.tar.gz", {**good, name: b"\x80\x04"}), "a pickle")


def test_an_entry_that_comes_twice_is_refused(store, tmp_path):
    good = entries(write_lora(tmp_path / "a"))
    refused(store, tar_of(tmp_path / "bad.tar.gz", {**good, "a/Adapter_Config.json": b"{}"}), "there twice")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_a_bomb_is_refused_before_it_goes_off(store, tmp_path, suffix):
    path, zeros = tmp_path / f"bomb{suffix}", bytes(archives.RATIO_FREE + 1)
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"a/{WEIGHTS_NAME}", zeros)
    else:
        tar_of(path, {f"a/{WEIGHTS_NAME}": zeros})
    refused(store, path, "which no adapter's do")


def test_size_and_count_have_limits(store, tmp_path, monkeypatch):
    packed = store.export("kept", tmp_path / "a.zip")
    (tmp_path / "out").mkdir()
    with pytest.raises(AdapterError, match="which no adapter's do"):
        unpack(packed, tmp_path / "out", max_bytes=1000)
    names = [f"a/{number}.json" for number in range(archives.MAX_ENTRIES + 2)]
    many = tar_of(tmp_path / "many.tar.gz", dict.fromkeys(names, b""))
    refused(store, many, "more than 2000 entries")


def test_a_header_that_asks_for_much_memory_is_refused(store, tmp_path):
    info = tarfile.TarInfo("a/adapter_config.json")
    info.pax_headers = {"comment": "x" * (archives.MAX_SIP + 1)}
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO())
    refused(store, tmp_path / "bad.tar.gz", "far too large")


def test_an_encrypted_zip_is_refused(store, tmp_path):
    path = store.export("kept", tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = -1
        while (position := content.find(signature, position + 1)) >= 0:
            content[position + offset] |= 1
    path.write_bytes(content)
    refused(store, path, "encrypted")


def test_an_archive_that_ends_early_is_refused(store, tmp_path):
    """Cut between two entries, where each that is left is whole: the manifest would go unnoticed."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for path in sorted((store.root / "kept").iterdir()):
            archive.add(path, f"a/{path.name}")
    with tarfile.open(tmp_path / "a.tar") as archive:
        last = archive.getmembers()[-1]
    assert last.name == "a/manifest.json"
    assert AdapterStore(tmp_path / "other").import_(tmp_path / "a.tar").state == "ready"
    shutil.rmtree(tmp_path / "other")
    content = (tmp_path / "a.tar").read_bytes()
    for damaged in (
        content[: last.offset],
        content[: last.offset] + b"x" * 512 + content[last.offset_data :],
        content[: last.offset] + bytes(512) + content[last.offset_data :],
    ):
        (tmp_path / "a.tar").write_bytes(damaged)
        refused(store, tmp_path / "a.tar", "damaged archive")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_damaged_archives_are_refused_or_hold_the_very_adapter(store, tmp_path, suffix):
    """Bytes flipped and tails cut off at random: never a traceback, never another adapter."""
    path, dice = store.export("kept", tmp_path / f"a{suffix}"), random.Random(0)
    content = path.read_bytes()
    others = files_of(store.root)
    refusals = 0
    for number in range(60):
        damaged = bytearray(content)
        if number % 3 == 0:
            del damaged[dice.randrange(len(content)) :]
        else:
            for _ in range(dice.choice([1, 1, 5])):
                damaged[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        try:
            store.import_(path, "taken")
        except AsuLoraError as error:
            assert "\n" not in str(error)
            refusals += 1
        else:
            found, kept = (load_file(store.root / name / WEIGHTS_NAME) for name in ("taken", "kept"))
            assert all((found[key] == kept[key]).all() for key in kept)
            store.remove("taken")
        assert files_of(store.root) == others
    assert refusals > 30
