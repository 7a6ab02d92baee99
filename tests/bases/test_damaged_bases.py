"""Bases that are damaged, or stored in a way that isn't used here: one sentence, by every command."""

import json
import re
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from asu_lora.bases.checkpoint_files import INDEX_NAME, SINGLE_NAME, checkpoint_files
from asu_lora.bases.source import resolve_base
from asu_lora.errors import BaseModelError
from asu_lora.models.loading import load_tokenizer
from asu_lora.models.prepared_base import prepare_base
from tests.support.checkpoint_copies import copy, rewrite_json
from tests.support.lora_folders import save_lora


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
