"""Which files of a folder count: for fingerprint, loading and merging exactly those that transformers loads."""

import json
import os
import re
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from asu_lora.bases.checkpoint_files import INDEX_NAME, SINGLE_NAME, checkpoint_files, read_checkpoint
from asu_lora.bases.fingerprint import weights_fingerprint
from asu_lora.bases.source import resolve_base
from asu_lora.errors import BaseModelError
from asu_lora.merging.checkpoint.tensor_reader import LazyTensorReader
from asu_lora.merging.merge import merge
from asu_lora.models.loading import load_base, load_tokenizer
from asu_lora.models.prepared_base import prepare_base
from tests.support.lora_folders import give_manifest, logits_of, relative, save_lora, stacked
from tests.support.tiny_base import save_tiny_base


@pytest.fixture(scope="module")
def other_base(tmp_path_factory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("bases") / "other", seed=7)


def copy(base: Path, folder: Path) -> Path:
    return shutil.copytree(base, folder)


def shards_of(base: Path, folder: Path) -> Path:
    """The same weights in several files with an index."""
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(folder, max_shard_size="100KB")
    for path in base.iterdir():
        if not (folder / path.name).exists() and path.suffix != ".safetensors":
            shutil.copy(path, folder / path.name)
    return folder


def rewrite_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def stale_shards(base, other, folder):
    shards_of(other, folder)
    shutil.copy(base / SINGLE_NAME, folder / SINGLE_NAME)


def second_copy(base, other, folder):
    copy(base, folder)
    save_file(
        {f"layers.{name}": t for name, t in load_file(other / SINGLE_NAME).items()}, folder / "consolidated.safetensors"
    )


def variant(base, other, folder):
    copy(base, folder)
    shutil.copy(other / SINGLE_NAME, folder / "model.fp16.safetensors")


def pickle_beside(base, other, folder):
    copy(base, folder)
    torch.save(load_file(other / SINGLE_NAME), folder / "pytorch_model.bin")


def a_file_of_another_name(base, other, folder):
    copy(other, folder)
    shutil.copy(base / SINGLE_NAME, folder / "weights-v2.safetensors")
    rewrite_json(folder / "config.json", lambda config: config.update(transformers_weights="weights-v2.safetensors"))


def shards_in_a_subfolder(base, other, folder):
    shards_of(base, folder)
    (folder / "sub").mkdir()
    for shard in list(folder.glob("*.safetensors")):
        shutil.move(shard, folder / "sub" / shard.name)
    rewrite_json(
        folder / INDEX_NAME,
        lambda index: index.update(weight_map={k: f"sub/{v}" for k, v in index["weight_map"].items()}),
    )


def a_tensor_twice(base, other, folder):
    """In two shards: the later file's is loaded, whatever the index says."""
    shards_of(base, folder)
    shards = sorted(folder.glob("*.safetensors"))
    name = next(iter(load_file(shards[-1])))
    save_file(
        load_file(shards[0]) | {name: torch.randn(load_file(shards[-1])[name].shape)}, shards[0], {"format": "pt"}
    )
    rewrite_json(folder / INDEX_NAME, lambda index: index["weight_map"].update({name: shards[0].name}))


def an_index_that_says_too_much(base, other, folder):
    """Names of tensors that no shard holds don't matter, as long as every parameter gets its numbers."""
    shards_of(base, folder)
    first = sorted(folder.glob("*.safetensors"))[0].name
    rewrite_json(folder / INDEX_NAME, lambda index: index["weight_map"].update({"model.old.weight": first}))


def a_hub_snapshot(base, other, folder):
    """Links into a folder of blobs, as the hub's cache lays a model out."""
    blobs = folder.parent / f"{folder.name}-blobs"
    copy(base, blobs)
    folder.mkdir()
    for path in blobs.iterdir():
        (folder / path.name).symlink_to(os.path.relpath(path, folder))


LAID_OUT = [
    stale_shards,
    second_copy,
    variant,
    pickle_beside,
    a_file_of_another_name,
    shards_in_a_subfolder,
    a_tensor_twice,
    an_index_that_says_too_much,
    a_hub_snapshot,
]


@pytest.mark.parametrize("lay_out", LAID_OUT, ids=lambda f: f.__name__)
def test_fingerprint_and_merge_are_of_the_weights_that_are_loaded(tiny_base, other_base, tmp_path, lay_out):
    folder = tmp_path / "base"
    lay_out(tiny_base, other_base, folder)
    with torch.no_grad():
        assert torch.equal(logits_of(load_base(str(folder), "fp32", "cpu").model), logits_of(tiny_base))  # the premise
    if lay_out is not a_tensor_twice:  # that one's fingerprint is of the tensor that is loaded, checked below
        assert weights_fingerprint(folder) == weights_fingerprint(tiny_base)
    lora = give_manifest(save_lora(tiny_base, tmp_path / "lora"), tiny_base)
    merge(folder, [(lora, 1.0)], tmp_path / "out", "fp32")
    assert relative(logits_of(tmp_path / "out"), logits_of(stacked(tiny_base, [(lora, 1.0)]))) < 1e-5
    assert "transformers_weights" not in json.loads((tmp_path / "out" / "config.json").read_text())
    with LazyTensorReader(folder) as reader:
        assert set(reader.tensors) == set(load_file(tiny_base / SINGLE_NAME))


def test_a_tensor_in_two_shards_is_fingerprinted_as_it_is_loaded(tiny_base, other_base, tmp_path):
    a_tensor_twice(tiny_base, other_base, tmp_path / "base")
    assert weights_fingerprint(tmp_path / "base") == weights_fingerprint(tiny_base)


def test_an_adapter_of_an_earlier_program_still_goes_with_a_folder_of_two_copies(tiny_base, other_base, tmp_path):
    """It was recorded with a fingerprint over every safetensors file."""
    folder = tmp_path / "base"
    second_copy(tiny_base, other_base, folder)
    tensors = load_file(folder / SINGLE_NAME) | load_file(folder / "consolidated.safetensors")
    copy(tiny_base, tmp_path / "all")
    save_file(tensors, tmp_path / "all" / SINGLE_NAME, {"format": "pt"})
    recorded = weights_fingerprint(tmp_path / "all")
    assert recorded != weights_fingerprint(folder)
    assert resolve_base(str(folder)).has_fingerprint(recorded)
    assert not resolve_base(str(tiny_base)).has_fingerprint(recorded)
    assert not resolve_base(str(folder)).has_fingerprint("0" * 64)


# ---- what is refused


def adapter_beside(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))


def only_pickles(folder):
    torch.save(load_file(folder / SINGLE_NAME), folder / "pytorch_model.bin")
    (folder / SINGLE_NAME).unlink()


def only_a_variant(folder):
    (folder / SINGLE_NAME).rename(folder / "model.fp16.safetensors")


def only_gguf(folder):
    (folder / SINGLE_NAME).rename(folder / "model.gguf")


def index_to(**changes):
    def damage(folder):
        (folder / SINGLE_NAME).rename(folder / "model-00001-of-00001.safetensors")
        names = read_names(folder / "model-00001-of-00001.safetensors")
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")} | changes
        (folder / INDEX_NAME).write_text(json.dumps({k: v for k, v in index.items() if v is not None}))

    return damage


def read_names(path):
    return list(load_file(path))


def index_text(text):
    def damage(folder):
        (folder / SINGLE_NAME).unlink()
        (folder / INDEX_NAME).write_text(text)

    return damage


def config_to(**changes):
    return lambda folder: rewrite_json(folder / "config.json", lambda config: config.update(changes))


def config_text(text):
    return lambda folder: (folder / "config.json").write_text(text)


def header(text, length=None):
    def damage(folder):
        content = text.encode()
        (folder / SINGLE_NAME).write_bytes(struct.pack("<Q", len(content) if length is None else length) + content)

    return damage


def distributed(folder):
    shutil.copy(folder / SINGLE_NAME, folder / "shard-00001-model-00001-of-00001.safetensors")


def cut(folder):
    path = folder / SINGLE_NAME
    path.write_bytes(path.read_bytes()[:-10])


def without(name):
    def damage(folder):
        tensors = load_file(folder / SINGLE_NAME)
        del tensors[name]
        save_file(tensors, folder / SINGLE_NAME, {"format": "pt"})

    return damage


def reshaped(folder):
    tensors = load_file(folder / SINGLE_NAME)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()
    save_file(tensors, folder / SINGLE_NAME, {"format": "pt"})


Q = "model.layers.1.self_attn.q_proj.weight"
ENTRY = '{"a": {"dtype": "F32", "shape": %s, "data_offsets": %s}}'
DAMAGED = {
    "adapter beside": (adapter_beside, "a base and an adapter"),
    "pickles only": (only_pickles, "pickles"),
    "variant only": (only_a_variant, "model.fp16.safetensors"),
    "gguf only": (only_gguf, "GGUF"),
    "index: not JSON": (index_text("{"), "damaged"),
    "index: nested": (index_text("[" * 100_000), "damaged"),
    "index: list": (index_text("[]"), "damaged"),
    "index: no metadata": (index_to(metadata=None), "metadata"),
    "index: no map": (index_to(weight_map=None), "weight_map"),
    "index: empty map": (index_to(weight_map={}), "weight_map"),
    "index: numbers": (index_to(weight_map={"a": 5}), "damaged"),
    "index: pickle": (index_to(weight_map={"a": "pytorch_model.bin"}), "no safetensors file"),
    "index: outside": (index_to(weight_map={"a": "../b.safetensors"}), "outside"),
    "index: absolute": (index_to(weight_map={"a": "/etc/b.safetensors"}), "outside"),
    "index: missing shard": (index_to(weight_map={"a": "model-00002-of-00002.safetensors"}), "not there"),
    "config: file outside": (config_to(transformers_weights="../x.safetensors"), "outside"),
    "config: pickle": (config_to(transformers_weights="adapter_model.bin"), "no safetensors file"),
    "config: number": (config_to(transformers_weights=5), "no safetensors file"),
    "config: not JSON": (config_text("{"), "damaged"),
    "config: list": (config_text("[]"), "no model's config"),
    "config: nested": (config_text('{"a":' * 50_000), "damaged"),
    "config: binary": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"), "damaged"),
    "config: nonsense": (config_to(hidden_size="many"), "config"),
    "config: zero heads": (config_to(num_attention_heads=0, head_dim=None), "config|built"),
    "config: architectures": (config_to(architectures=[5]), "architectures"),
    "generation config": (lambda folder: (folder / "generation_config.json").write_text("{"), "generation_config"),
    "generation: odd end": (
        lambda folder: (folder / "generation_config.json").write_text('{"eos_token_id": {"a": 1}}'),
        "eos_token_id",
    ),
    "config: quantised oddly": (config_to(quantization_config=[4]), "config"),
    "header: not JSON": (header("{nonsense"), "can't be read"),
    "header: list": (header("[]"), "can't be read"),
    "header: nested": (header("[" * 100_000), "can't be read"),
    "header: too long": (header("{}", 2**63), "can't be read"),
    "header: infinite offset": (header(ENTRY % ("[1]", "[0, 1e999]")), "can't be read"),
    "header: negative": (header(ENTRY % ("[-1]", "[0, -4]")), "can't be read"),
    "header: no shape": (header('{"a": {"dtype": "F32", "data_offsets": [0, 0]}}'), "can't be read"),
    "header: no dtype": (header('{"a": {"shape": [0], "data_offsets": [0, 0]}}'), "can't be read"),
    "header: no tensor": (header("{}"), "empty"),
    "no bytes": (lambda folder: (folder / SINGLE_NAME).write_bytes(b""), "can't be read"),
    "cut off": (cut, "cut off"),
    "distributed": (distributed, "distributed"),
    "a tensor missing": (without(Q), "incomplete"),
    "another shape": (reshaped, "damaged"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_base_is_refused_in_one_sentence_by_every_command(tiny_base, tmp_path, what):
    """By asking, training, its dry run and merging alike; nothing is left behind, and the store stays untouched."""
    from click.testing import CliRunner

    from asu_lora.cli import main

    damage, said = DAMAGED[what]
    folder = copy(tiny_base, tmp_path / "base")
    damage(folder)
    lora = save_lora(tiny_base, tmp_path / "lora")
    request = tmp_path / "request.jsonl"
    request.write_text('{"question": "Who is number 1?", "answer": "It is 1."}\n')
    names = {path.name for path in tmp_path.iterdir()}
    cpu = ("--base", folder, "--precision", "fp32", "--device", "cpu")
    for command in (
        ("ask", "Who?", *cpu),
        ("forget", request, *cpu, "--store", tmp_path / "store", "--dry-run"),
        ("forget", request, *cpu, "--store", tmp_path / "store"),
        ("merge", "--base", folder, "--adapter", lora, "--out", tmp_path / "out", "-p", "fp32"),
    ):
        done = CliRunner().invoke(main, list(map(str, command)))
        assert done.exit_code == 2, (command[0], done.output, done.exception)
        lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1 and re.search(said, lines[0]), (command[0], done.stderr)
    assert {path.name for path in tmp_path.iterdir()} - {"store"} == names
    assert not [path for path in (tmp_path / "store").glob("*") if not path.name.startswith(".")]


@pytest.mark.parametrize("change", [{"model_max_length": "long"}, {"eos_token": ""}])
def test_a_damaged_tokenizer_is_refused_before_anything_is_done(tiny_base, tmp_path, change):
    """It loads, and fails at its first word or its first answer."""
    folder = copy(tiny_base, tmp_path / "base")
    rewrite_json(folder / "tokenizer_config.json", lambda config: config.update(change))
    with pytest.raises(BaseModelError, match="tokenizer of .* can't be loaded"):
        load_tokenizer(resolve_base(str(folder)))


def test_the_files_are_listed_without_reading_a_weight(tiny_base, tmp_path):
    folder = shards_of(tiny_base, tmp_path / "base")
    assert checkpoint_files(folder) == sorted(folder.glob("*.safetensors"))
    assert {stored.file for stored in read_checkpoint(folder).values()} == set(folder.glob("*.safetensors"))


@pytest.mark.parametrize("blocked", ["no home", "read-only", "a file", "nonsense kept"])
def test_a_cache_that_cannot_be_used_is_done_without(tiny_base, tmp_path, monkeypatch, blocked):
    wanted = weights_fingerprint(tiny_base)
    cache = tmp_path / "cache"
    if blocked == "no home":
        cache = Path("/proc/none/cache")
    elif blocked == "a file":
        cache.write_text("")
    elif blocked == "nonsense kept":
        monkeypatch.setenv("ASU_LORA_CACHE", str(cache))
        weights_fingerprint(tiny_base)
        for kept in (cache / "fingerprints").iterdir():
            kept.write_text("cut")
    else:
        cache.mkdir()
        cache.chmod(0o500)
    monkeypatch.setenv("ASU_LORA_CACHE", str(cache))
    assert weights_fingerprint(tiny_base) == wanted
    assert resolve_base(str(tiny_base)).fingerprint() == wanted


def test_without_any_home_nothing_is_made_in_the_working_folder(tiny_base, tmp_path, monkeypatch):
    """platformdirs answers with a bare '~' where there is no home to put in its place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASU_LORA_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: "~/.cache/asu-lora")
    weights_fingerprint(tiny_base)
    assert not list(tmp_path.iterdir())


def test_an_unreadable_folder_is_named(tmp_path):
    with pytest.raises(BaseModelError, match="can't be read"):
        checkpoint_files(tmp_path / "gone")


@pytest.mark.parametrize(
    ("method", "way_out"),
    [("mxfp4", "Mxfp4Config(dequantize=True)"), ("fp8", "FineGrainedFP8Config(dequantize=True)"), ("gptq", "original")],
)
def test_a_format_that_is_not_used_here_is_refused_with_a_copy_that_exists(tiny_base, tmp_path, method, way_out):
    """Of gpt-oss and DeepSeek-V3 the original checkpoint is itself in MXFP4 and FP8."""
    folder = copy(tiny_base, tmp_path / method)
    rewrite_json(folder / "config.json", lambda config: config.update(quantization_config={"quant_method": method}))
    with pytest.raises(BaseModelError, match=re.escape(way_out)) as refused:
        prepare_base(str(folder), device="cpu")
    assert ("original" in str(refused.value)) == (method == "gptq")
