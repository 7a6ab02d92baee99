"""What can't be merged is refused in one sentence and leaves nothing behind; and the command around it."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from asu_lora.errors import AdapterError, BaseModelError, SettingError
from asu_lora.merging.merge import merge
from tests.support.lora_folders import (
    LINEAR,
    give_manifest,
    logits_of,
    relative,
    save_lora,
    stacked,
    tensors_of,
    two_adapters,
)
from tests.support.tiny_base import save_tiny_base

two = two_adapters


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_one_of_two_tied_modules_is_refused_by_name(tiny_base, tmp_path, module):
    lora = save_lora(tiny_base, tmp_path / "tied", target_modules=[module])
    with pytest.raises(AdapterError, match=rf"{module}, which shares its weight"):
        merge(tiny_base, [(lora, 1.0)], tmp_path / "out")


def test_a_tensor_that_does_not_fit_the_config_is_refused(tiny_base, two, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    save_file(tensors | {name: tensors[name][:, :-8].contiguous()}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseModelError, match=rf"damaged: {name} has the shape \[\d+, \d+\], and by its config"):
        merge(base, two, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_base_is_refused(tiny_base, two, tmp_path):
    wider = save_tiny_base(tmp_path / "wider", hidden_size=32)
    deeper = save_tiny_base(tmp_path / "deeper", num_hidden_layers=3)
    with pytest.raises(AdapterError, match=r"the base has \[\d+, \d+\] there"):
        merge(wider, two, tmp_path / "out")
    with pytest.raises(AdapterError, match=r"layers\.2\.self_attn\.\w_proj, which this base does not have"):
        merge(tiny_base, [(save_lora(deeper, tmp_path / "deep"), 1.0)], tmp_path / "out")
    with pytest.raises(AdapterError, match="adapters only add up on one base"):
        merge(tiny_base, [two[0], (tmp_path / "deep", 1.0)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("weight", "computed"), [(1e30, "fp32"), (1e7, "fp16")])
def test_a_weight_whose_answers_would_be_infinite_is_refused(tiny_base, two, tmp_path, weight, computed):
    lora = give_manifest(shutil.copytree(two[0][0], tmp_path / "a"), tiny_base, precision=computed)
    with pytest.raises(SettingError, match=r"The weight \S+ of the adapter 'a' is too large: with its model\.layers"):
        merge(tiny_base, [(lora, weight)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_weights_under_the_same_name_are_refused(tiny_base, two, tmp_path):
    lora = give_manifest(shutil.copytree(two[0][0], tmp_path / "a"), tiny_base, fingerprint="0" * 64)
    with pytest.raises(AdapterError, match="other weights under the same name"):
        merge(tiny_base, [(lora, 1.0)], tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_more_than_a_lora_is_refused_by_name(tiny_base, tmp_path, settings, said):
    lora = save_lora(tiny_base, tmp_path / "special", **settings)
    with pytest.raises(AdapterError) as refused:
        merge(tiny_base, [(lora, 1.0)], tmp_path / "out")
    assert said in str(refused.value)


def sharded(tiny_base, folder):
    AutoModelForCausalLM.from_pretrained(tiny_base).save_pretrained(folder, max_shard_size="100KB")
    return folder, sorted(folder.glob("*.safetensors"))


@pytest.mark.parametrize("damage", ["cut off", "missing", "a tensor", "nan", "pickle"])
def test_a_broken_base_is_refused_and_nothing_is_left(tiny_base, two, tmp_path, damage):
    base, shards = sharded(tiny_base, tmp_path / "base")
    said = {
        "cut off": "cut off",
        "missing": "incomplete: .* which is not there",
        "a tensor": "incomplete: its files hold no model.layers",
        "nan": "not finite",
        "pickle": "pickles",
    }[damage]
    if damage == "cut off":
        shards[2].write_bytes(shards[2].read_bytes()[:-100])
    elif damage == "missing":
        shards[1].unlink()
    elif damage == "a tensor":
        tensors = load_file(shards[1])
        tensors.pop(next(name for name in tensors if "layers" in name))
        save_file(tensors, shards[1], metadata={"format": "pt"})
    elif damage == "nan":
        shard = next(s for s in reversed(shards) if any("q_proj" in name for name in load_file(s)))
        tensors = {name: tensor * float("nan") for name, tensor in load_file(shard).items()}
        save_file(tensors, shard, metadata={"format": "pt"})
    else:
        for shard in (*shards, base / "model.safetensors.index.json"):
            shard.unlink()
        (base / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(BaseModelError, match=said):
        merge(base, two, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"base"}


def test_values_that_do_not_fit_are_refused(tiny_base, two, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    tensors = tensors_of(base)
    tensors["model.norm.weight"][0] = 1e6
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"model\.norm\.weight can't be stored as fp16"):
        merge(base, two, tmp_path / "out", "fp16")
    merge(base, two, tmp_path / "out", "bf16")


def test_stored_int8_is_refused_by_name(tiny_base, two, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match="stored as gptq"):
        merge(base, two, tmp_path / "out")


def test_settings_that_make_no_sense(tiny_base, two, tmp_path):
    for words, said in (({"precision": "int3"}, "int3"), ({"onto": "both"}, "both"), ({"shard_size": 0}, "shard size")):
        with pytest.raises(SettingError, match=said):
            merge(tiny_base, two, tmp_path / "out", **words)
    with pytest.raises(SettingError, match="at least one adapter"):
        merge(tiny_base, [], tmp_path / "out")
    with pytest.raises(SettingError, match="not empty"):
        merge(tiny_base, two, two[0][0])
    assert not list(tmp_path.iterdir())


# ---- the command


def run(*arguments):
    from click.testing import CliRunner

    from asu_lora.cli import main

    return CliRunner().invoke(main, ["merge", *map(str, arguments)])


def test_command_merges_from_the_store(tiny_base, two, tmp_path):
    from asu_lora.adapters.store import AdapterStore

    store = AdapterStore(tmp_path / "store")
    for folder, _ in two:
        store.import_(folder, folder.name)
    done = run(
        "--base",
        tiny_base,
        "--adapter",
        "a",
        "--adapter",
        "b:0.5",
        "--out",
        tmp_path / "out",
        "--precision",
        "fp32",
        "--store",
        store.root,
        "--json",
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["adapters"] == [{"name": "a", "weight": 1.0}, {"name": "b", "weight": 0.5}]
    assert len(said["modules"]) == 2 * len(LINEAR)
    assert relative(logits_of(tmp_path / "out"), logits_of(stacked(tiny_base, two))) < 1e-5


def test_command_says_that_an_adapter_names_another_base_of_the_hub(tiny_base, two, tmp_path):
    """In a process of its own: the hub's client reads once where its cache is."""
    held = tmp_path / "hf" / "hub" / "models--org--one"
    shutil.copytree(tiny_base, held / "snapshots" / ("c0" * 20))
    (held / "refs").mkdir()
    (held / "refs" / "main").write_text("c0" * 20)
    lora = shutil.copytree(two[0][0], tmp_path / "lora")
    for names, said in (("org/other", True), ("org/one", False)):
        config = json.loads((lora / "adapter_config.json").read_text())
        (lora / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": names}))
        words = ["merge", "--base", "org/one", "--adapter", lora, "--out", tmp_path / f"out-{said}"]
        done = subprocess.run(
            [sys.executable, "-m", "asu_lora", *map(str, words)],
            env=os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert (f"says that it was trained on {names}, and the base is org/one" in done.stderr) == said


def test_command_tells_what_rounding_took(tiny_base, tmp_path):
    lora = give_manifest(save_lora(tiny_base, tmp_path / "faint", size=0.001), tiny_base, precision="nf4")
    done = run("--base", tiny_base, "--adapter", lora, "--out", tmp_path / "out", "--precision", "nf4")
    assert done.exit_code == 0, done.output
    assert "what was forgotten may return" in done.stdout
    assert "as NF4 shows them, which differ from the original ones by" in done.stdout
    assert "self_attn.q_proj" in done.stdout
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--adapter", "nobody"], "no adapter nobody"),
        (["--adapter", "{lora}:lots"], "'lots' is no number"),
        (["--adapter", "{lora}", "--base", "nowhere/to/be/found"], "nowhere/to/be/found"),
        (["--adapter", "{lora}", "--precision", "int4"], "int4"),
        (["--adapter", "{lora}", "--out", "{lora}"], "not empty"),
        ([], "at least one adapter"),
    ],
)
def test_command_says_what_is_wrong(tiny_base, two, tmp_path, arguments, said):
    words = [word.format(lora=two[0][0]) for word in arguments]
    defaults = ["--base", tiny_base, "--out", tmp_path / "out", "--store", tmp_path / "store"]
    done = run(*defaults, *words)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
