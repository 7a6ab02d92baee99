"""Files that a stranger wrote: one sentence each, for the adapter they are in, and nothing for the others."""

import json
import tarfile
import tracemalloc

import pytest

from asu_lora.adapters.manifest import read_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import AdapterError
from asu_lora.safetensors_header import read_header
from tests.support.adapter_folders import add, fill, write_lora

DEEP = "[" * 100_000 + "]" * 100_000
LESS_DEEP = "[" * 500 + "]" * 500
CONFIG = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture
def store(tmp_path):
    store = AdapterStore(tmp_path / "store")
    add(store, "sound")
    return store


def commands(root, *arguments):
    from click.testing import CliRunner

    from asu_lora.cli import main

    return CliRunner().invoke(main, ["adapters", *arguments, "--store", str(root)])


@pytest.mark.parametrize("file", ["adapter_config.json", "manifest.json"])
@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        LESS_DEEP,
        '{"a":' * 50_000 + "1" + "}" * 50_000,
        "[]",
        "5",
        '"LORA"',
        "",
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
        '{"peft_type": "LORA", "r": 4, "base_model_name_or_path": "\\ud800"}',
        "9" * 10_000,
        json.dumps({"x": "y" * (9 << 20)}),
        json.dumps(CONFIG | {"base_model_name_or_path": 5}),
        json.dumps(CONFIG | {"base_model_name_or_path": ["a"]}),
        json.dumps(CONFIG | {"r": True}),
        json.dumps(CONFIG | {"r": 1e400}),
        json.dumps(CONFIG | {"lora_alpha": float("nan")}),
        json.dumps(CONFIG | {"rank_pattern": {"q_proj": "4"}}),
        json.dumps(CONFIG | {"rank_pattern": [4]}),
        json.dumps(CONFIG | {"target_modules": {"q_proj": 1}}),
        json.dumps(CONFIG | {"modules_to_save": 5}),
    ],
)
def test_one_stored_folder_never_keeps_the_others_from_being_listed(store, tmp_path, file, text):
    folder = fill(store.root / "odd", "odd")
    (folder / file).write_text(text)
    listed = commands(store.root, "list", "--json")
    assert listed.exit_code == 0, listed.output
    states = {entry["name"]: entry["state"] for entry in json.loads(listed.stdout)}
    assert states["sound"] == "ready" and states["odd"].startswith("broken: ") and "\n" not in states["odd"]
    for arguments in (["list"], ["show", "odd"], ["show", "odd", "--json"]):
        assert commands(store.root, *arguments).exit_code == 0
    verified = commands(store.root, "verify")
    assert verified.exit_code == 2 and "sound: ok" in verified.stdout and "odd: BAD" in verified.stdout
    with pytest.raises(AdapterError):
        AdapterStore(tmp_path / "other").import_(folder)
    assert AdapterStore(tmp_path / "other").names() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"created": 5},
        {"created": "0001-01-01T00:00:00+23:00"},
        {"created": None},
        {"method": {"objective": "combined", "details": {"sources": 5}}},
        {"method": {"objective": "combined", "details": {"sources": [{"name": "a"}]}}},
        {"method": {"objective": "combined", "details": {"contents": [[]]}}},
        {"files": []},
        {"base": "org/base"},
    ],
)
def test_a_manifest_of_odd_values_is_said_to_be_none(store, fields):
    folder = fill(store.root / "odd", "odd")
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | fields))
    with pytest.raises(AdapterError, match="is not a manifest"):
        read_manifest(folder)
    assert commands(store.root, "list").exit_code == 0


def header_file(path, header: bytes, data: bytes = b"", length=None):
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)
    return path


def entry(**changes):
    return {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes


@pytest.mark.parametrize(
    "header",
    [
        DEEP.encode(),
        b"[]",
        b"5",
        b'{"a": 5}',
        b'{"a": []}',
        json.dumps({"a": entry(shape=[1e400, 1])}).encode(),
        json.dumps({"a": entry(shape=[-2, -2])}).encode(),
        json.dumps({"a": entry(shape=[True, 4])}).encode(),
        json.dumps({"a": entry(shape=5)}).encode(),
        json.dumps({"a": entry(shape=[1] * 2000)}).encode(),
        json.dumps({"a": entry(shape=[10**4000, 10**4000])}).encode(),
        json.dumps({"a": entry(dtype=[])}).encode(),
        json.dumps({"a": entry(dtype="F33")}).encode(),
        json.dumps({"a": entry(data_offsets=[0, 16, 32])}).encode(),
        json.dumps({"a": entry(data_offsets=[16, 0])}).encode(),
        json.dumps({"a": entry(data_offsets=[-16, 0])}).encode(),
        json.dumps({"a": entry(), "b": entry()}).encode(),
        json.dumps({"a": entry(shape=[1, 2], data_offsets=[8, 16])}).encode(),
        b'{"\\ud800": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 1' + b"6" * 5000 + b"]}}",
        b"\xff\xfe",
    ],
)
def test_a_header_that_makes_no_sense_is_refused_in_one_sentence(tmp_path, header):
    with pytest.raises(AdapterError) as refused:
        read_header(header_file(tmp_path / "x.safetensors", header, bytes(16)))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 10_000


@pytest.mark.parametrize("size", [8, 60])
def test_a_small_archive_does_not_take_much_memory(tmp_path, size):
    """A header of megabytes squeezes into kilobytes, and takes twenty-five times its size when it is parsed."""
    folder = write_lora(tmp_path / "a")
    header = b'{"a":' + b" " * (size << 20) + json.dumps(entry()).encode() + b"}"
    header_file(folder / "adapter_model.safetensors", header, bytes(16))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(folder, "a")
    tracemalloc.start()
    with pytest.raises(AdapterError, match="its header has"):
        AdapterStore(tmp_path / "store").import_(tmp_path / "a.tar.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20
