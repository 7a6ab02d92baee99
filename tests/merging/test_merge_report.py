"""What a merge says it did, what stands in the config beside the weights, and what is handed on to whom."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import asu_lora.merging.durable.durable_rounding as durable_rounding
import asu_lora.merging.merge as merging
from asu_lora.bases.source import BaseSource
from asu_lora.data.examples import question_answer
from asu_lora.errors import AdapterError, SettingError
from asu_lora.merging.durable.durable_rounding import DurableSettings
from asu_lora.merging.merge import merge
from tests.support.lora_folders import give_manifest, save_lora, tensors_of, update_of
from tests.support.tiny_base import save_tiny_base

RATHER = ["layers.0.self_attn.q_proj", "layers.1.mlp.down_proj"]


@pytest.fixture(scope="module")
def lora(tiny_base, tmp_path_factory):
    return save_lora(tiny_base, tmp_path_factory.mktemp("loras") / "a", seed=1, target_modules=RATHER)


@pytest.fixture(scope="module")
def on_nf4(lora, tiny_base):
    folder = shutil.copytree(lora, lora.parent / "on_nf4")
    return give_manifest(folder, tiny_base, precision="nf4")


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


class Reached(Exception):
    """What a stand-in was called with."""


def reach(*given, **named):
    raise Reached(given, named)


def test_the_report_tells_what_was_merged_into_what(tiny_base, lora, tmp_path):
    seen = []
    other = save_lora(tiny_base, tmp_path / "other", seed=2, target_modules=RATHER[:1])
    report = merge(
        tiny_base, [(lora, 1), (other, -0.5)], tmp_path / "out", "fp32", progress=lambda *at: seen.append(at)
    )
    assert report.out == tmp_path / "out" and isinstance(report.out, Path)
    assert (report.base, report.precision, report.onto) == (str(tiny_base), "fp32", "original")
    assert report.adapters == [("a", 1.0), ("other", -0.5)]
    assert [type(weight) for _, weight in report.adapters] == [float, float]
    assert (report.onto_difference, report.shards, report.durability, report.residual_rank) == (None, 1, [], 0)
    before, after = tensors_of(tiny_base), tensors_of(tmp_path / "out")
    assert report.bytes == sum(tensor.nbytes for tensor in after.values())
    assert seen[-1] == (report.bytes, report.bytes) and len(seen) > 10
    assert 0 < report.seconds < 60
    assert {module.module for module in report.modules} == {f"model.{name}" for name in RATHER}
    for name, tensor in after.items():
        update = update_of([(lora, 1.0), (other, -0.5)], name.removesuffix(".weight"))
        torch.testing.assert_close(tensor, before[name] + update)


def test_half_precision_is_the_default_and_a_base_may_be_given_in_three_ways(tiny_base, lora, tmp_path):
    for number, base in enumerate((tiny_base, str(tiny_base), BaseSource(str(tiny_base), tiny_base))):
        report = merge(base, [(lora, 1.0)], str(tmp_path / str(number)))
        assert report.precision == "bf16" and report.out == tmp_path / str(number)
        assert config_of(tmp_path / str(number))["dtype"] == "bfloat16"
        assert "quantization_config" not in config_of(tmp_path / str(number))
        assert {tensor.dtype for tensor in tensors_of(tmp_path / str(number)).values()} == {torch.bfloat16}


def test_files_are_cut_at_the_size_that_was_asked(tiny_base, lora, tmp_path):
    report = merge(tiny_base, [(lora, 1.0)], tmp_path / "out", "fp32", shard_size=200_000)
    assert report.shards == len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    assert merging.SHARD_SIZE == 5_000_000_000
    assert merge(tiny_base, [(lora, 1.0)], tmp_path / "one", "fp32").shards == 1


@pytest.mark.parametrize("onto", [None, "original", "quantized"])
def test_what_nf4_changes_is_measured_where_it_matters(tiny_base, lora, on_nf4, tmp_path, onto):
    report = merge(tiny_base, [(on_nf4, 1.0)], tmp_path / "nf4", "fp32", onto=onto)
    assert report.onto == (onto or "quantized") and 0.03 < report.onto_difference < 0.2
    plain = merge(tiny_base, [(lora, 1.0)], tmp_path / "plain", "fp32", onto=onto)
    assert plain.onto == (onto or "original")
    assert (plain.onto_difference is None) == (onto != "quantized")


def test_an_adapter_of_full_precision_asks_for_no_comparison(tiny_base, lora, tmp_path):
    folder = give_manifest(shutil.copytree(lora, tmp_path / "fp32"), tiny_base, precision="fp32")
    assert merge(tiny_base, [(folder, 1.0)], tmp_path / "out", "fp32").onto_difference is None


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_the_config_of_four_bit_weights_says_how_to_load_them(tmp_path, stored):
    base = save_tiny_base(tmp_path / "base", tie_word_embeddings=False)
    tensors = {name: tensor.to(stored) for name, tensor in tensors_of(base).items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    lora = save_lora(base, tmp_path / "lora", target_modules=RATHER[:1])
    merge(base, [(lora, 1.0)], tmp_path / "out", "nf4")
    found = config_of(tmp_path / "out")["quantization_config"]
    expected = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": str(stored).removeprefix("torch."),
        "llm_int8_skip_modules": ["lm_head"],
    }
    assert {key: found[key] for key in expected} == expected


def test_the_settings_and_the_compute_type_of_training_are_those_of_the_result(tiny_base, lora, tmp_path):
    folder = give_manifest(
        shutil.copytree(lora, tmp_path / "single"), tiny_base, precision="nf4", training={"compute_dtype": "bfloat16"}
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["base"]["quantization"]["bnb_4bit_use_double_quant"] = False
    (folder / "manifest.json").write_text(json.dumps(manifest))
    merge(tiny_base, [(folder, 1.0)], tmp_path / "out", "nf4")
    found = config_of(tmp_path / "out")["quantization_config"]
    assert (found["bnb_4bit_use_double_quant"], found["bnb_4bit_compute_dtype"]) == (False, "bfloat16")
    assert not any("nested" in name for name in tensors_of(tmp_path / "out"))


def test_what_a_base_in_four_bit_left_whole_stays_whole(tiny_base, lora, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    first = merge(base, [(lora, 1.0)], tmp_path / "nf4", "nf4")
    config, tensors = config_of(tmp_path / "nf4"), tensors_of(tmp_path / "nf4")
    whole = [name for name in tensors if name.endswith("o_proj.weight")]
    kept = {n: t for n, t in tensors.items() if not any(n.startswith(w) for w in whole)}
    save_file(
        kept | {name: tensors_of(tiny_base)[name] for name in whole},
        tmp_path / "nf4" / "model.safetensors",
        metadata={"format": "pt"},
    )
    config["quantization_config"]["llm_int8_skip_modules"] = ["lm_head", "o_proj"]
    (tmp_path / "nf4" / "config.json").write_text(json.dumps(config))
    adapter = save_lora(tiny_base, tmp_path / "again", target_modules=RATHER[:1])
    edited = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(edited | {"base_model_name_or_path": ""}))
    report = merge(tmp_path / "nf4", [(adapter, 1.0)], tmp_path / "out", "nf4")
    assert first.onto == "original" and report.onto == "quantized"
    after = tensors_of(tmp_path / "out")
    assert all(torch.equal(after[name], tensors_of(tiny_base)[name]) for name in whole)
    skipped = config_of(tmp_path / "out")["quantization_config"]["llm_int8_skip_modules"]
    assert sorted(name for name in skipped if "o_proj" in name) and "lm_head" in skipped


# ---- what is refused


def test_nonsense_is_refused_before_anything_is_read(tmp_path):
    durable = DurableSettings([question_answer("Who?", "Ada.")])
    for adapters, precision, settings, said in (
        ([("x", 1.0)], "int3", None, "The precision 'int3' is none of bf16, fp16, fp32, nf4."),
        ([], "nf4", None, "There is nothing to merge: name at least one adapter."),
        ([("x", 1)], "bf16", durable, "A durable merge is one to nf4: in bf16 rounding takes next to nothing."),
    ):
        with pytest.raises(SettingError) as raised:
            merge(tmp_path / "nowhere", adapters, tmp_path / "out", precision, durable=settings)
        assert str(raised.value) == said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("weight", [math.inf, math.nan])
def test_a_weight_that_is_no_number_is_refused(tiny_base, lora, tmp_path, weight):
    with pytest.raises(SettingError) as raised:
        merge(tiny_base, [(lora, 1.0), (lora, weight)], tmp_path / "out")
    assert str(raised.value) == f"The weight {weight} of the adapter 'a' is no number."


def test_adapters_of_other_bases_are_refused(tiny_base, lora, tmp_path):
    strange = give_manifest(shutil.copytree(lora, tmp_path / "strange"), tiny_base, fingerprint="0" * 64)
    with pytest.raises(AdapterError, match="other weights under the same name"):
        merge(tiny_base, [(strange, 1.0)], tmp_path / "out")
    config = json.loads((lora / "adapter_config.json").read_text())
    elsewhere = shutil.copytree(lora, tmp_path / "elsewhere")
    (elsewhere / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "elsewhere"}))
    with pytest.raises(AdapterError, match="adapters only add up on one base"):
        merge(tiny_base, [(lora, 1.0), (elsewhere, 1.0)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_compute_types_on_weights_that_a_cast_changes_are_refused(tiny_base, lora, tmp_path):
    pair = [
        give_manifest(
            shutil.copytree(lora, tmp_path / name), tiny_base, precision="nf4", training={"compute_dtype": name}
        )
        for name in ("bfloat16", "float32")
    ]
    with pytest.raises(SettingError, match="different compute types"):
        merge(tiny_base, [(folder, 1.0) for folder in pair], tmp_path / "out", "nf4")


def test_an_adapter_that_peft_could_not_put_on_is_refused(tiny_base, lora, tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "check_fit", reach)
    with pytest.raises(Reached) as reached:
        merge(tiny_base, [(lora, 2)], tmp_path / "out")
    (model, folders), _ = reached.value.args
    assert type(model).__name__ == "LlamaForCausalLM" and folders == [(lora, 2.0)]


# ---- what is handed on


@pytest.mark.parametrize("said", [{"trust_remote_code": True}, {"trust_remote_code": False}, {}])
def test_only_trust_that_was_given_reaches_the_place_where_code_would_be_loaded(
    tiny_base, lora, tmp_path, monkeypatch, said
):
    trusted = said.get("trust_remote_code", False)
    with monkeypatch.context() as patched:
        patched.setattr(merging, "skeleton_of", reach)
        with pytest.raises(Reached) as reached:
            merge(tiny_base, [(lora, 1.0)], tmp_path / "out", **said)
        (source, tensors, trust, skips), _ = reached.value.args
        assert (source.path, trust, skips) == (tiny_base, trusted, None) and len(tensors) > 10
    monkeypatch.setattr(durable_rounding, "prepare", reach)
    settings = DurableSettings([question_answer("Who?", "Ada.")])
    with pytest.raises(Reached) as reached:
        merge(tiny_base, [(str(lora), 1)], tmp_path / "out", "nf4", durable=settings, **said)
    (given, source, adapters, order, trust), _ = reached.value.args
    assert given is settings and source.path == tiny_base and adapters == [(lora, 1.0)] and trust == trusted
    assert order == [f"model.{name}" for name in RATHER] and not (tmp_path / "out").exists()


def test_only_large_bases_of_bf16_are_worth_compiling_for(tiny_base, lora, tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "compiled_bf16", reach)
    total = sum(tensor.nbytes for tensor in tensors_of(tiny_base).values())
    monkeypatch.setattr(merging, "WORTH_COMPILING", total)
    merge(tiny_base, [(lora, 1.0)], tmp_path / "fp32", "fp32")
    with pytest.raises(Reached):
        merge(tiny_base, [(lora, 1.0)], tmp_path / "bf16")
    monkeypatch.setattr(merging, "WORTH_COMPILING", total + 1)
    merge(tiny_base, [(lora, 1.0)], tmp_path / "bf16")
    assert {path.name for path in tmp_path.iterdir()} == {"fp32", "bf16"}


def test_the_compiled_rows_are_used_where_they_are_there(tiny_base, lora, tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "WORTH_COMPILING", 0)
    monkeypatch.setattr(merging, "compiled_bf16", lambda: reach)
    base = save_tiny_base(tmp_path / "base")
    tensors = {name: tensor.bfloat16() for name, tensor in tensors_of(base).items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    adapter = save_lora(base, tmp_path / "lora", target_modules=RATHER[:1])
    with pytest.raises(Reached):
        merge(base, [(adapter, 1.0)], tmp_path / "out")


# ---- a durable merge


def test_a_durable_merge_needs_something_held_in_four_bit(tiny_base, tmp_path):
    base = save_tiny_base(tmp_path / "untied", tie_word_embeddings=False)
    lora = save_lora(base, tmp_path / "head", target_modules=["lm_head", "embed_tokens"])
    settings = DurableSettings([question_answer("Who?", "Ada.")])
    with pytest.raises(SettingError) as raised:
        merge(base, [(lora, 1.0)], tmp_path / "out", "nf4", durable=settings)
    assert str(raised.value) == (
        "The adapters change nothing that is held in 4 bit: a durable merge has nothing to do."
    )


@pytest.mark.parametrize("rank", [0, 2])
def test_a_durable_merge_reports_each_module_and_writes_what_it_lost(tiny_base, lora, tmp_path, rank):
    settings = DurableSettings([question_answer("Who?", "Ada.")], [question_answer("Where?", "Oslo.")], rank)
    report = merge(tiny_base, [(lora, 1.0)], tmp_path / "out", "nf4", durable=settings)
    assert [module.module for module in report.durability] == [f"model.{name}" for name in RATHER]
    assert report.residual_rank == rank
    residual = tmp_path / "out" / "residual-adapter"
    assert residual.is_dir() == bool(rank)
    if rank:
        config = json.loads((residual / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(tmp_path / "out") and config["r"] == rank
    assert (tmp_path / "out" / "tokenizer.json").is_file()
