"""Archives that mean harm, or are damaged: refused, and nothing is written outside or left behind."""

import io
import random
import shutil
import stat
import tarfile
import zipfile

import pytest
from safetensors.numpy import load_file

from asu_lora.adapters import archive as archives
from asu_lora.adapters.archive import unpack
from asu_lora.adapters.manifest import WEIGHTS_NAME
from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import AdapterError, AsuLoraError
from tests.support.adapter_folders import entries, files_of, in_memory, refused, store_of_one, tar_of, write_lora

tmp_path, store = in_memory, store_of_one


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
