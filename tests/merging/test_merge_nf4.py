"""Merging and 4 bit: onto what NF4 left of the base, and into bitsandbytes' own layout."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from asu_lora.adapters.lora_folder import read_lora
from asu_lora.errors import SettingError
from asu_lora.merging.merge import merge
from tests.support.lora_folders import (
    LINEAR,
    give_manifest,
    in_fp32,
    logits_of,
    nf4,
    relative,
    save_lora,
    save_tiny_gpt2,
    stacked,
    tensors_of,
    two_adapters,
    update_of,
)

two = two_adapters


@pytest.fixture(scope="module")
def two_on_nf4(two, tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nf4")
    return [
        (give_manifest(shutil.copytree(lora, folder / lora.name), tiny_base, precision="nf4"), weight)
        for lora, weight in two
    ]


def test_onto_the_dequantised_base_answers_as_the_nf4_base_with_its_adapters(tiny_base, two_on_nf4, tmp_path):
    report = merge(tiny_base, two_on_nf4, tmp_path / "out", "fp32")
    trained_as = logits_of(in_fp32(stacked(tiny_base, two_on_nf4, quantization_config=nf4())))
    merged = logits_of(tmp_path / "out")
    assert relative(merged, trained_as) < 1e-5
    assert report.onto == "quantized"
    merge(tiny_base, two_on_nf4, tmp_path / "original", "fp32", onto="original")
    assert relative(logits_of(tmp_path / "original"), trained_as) > 0.01


def test_the_difference_between_quantised_and_original_is_measured(tiny_base, two_on_nf4, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_base, quantization_config=nf4())
    seen, original = model.dequantize(torch.float32).state_dict(), tensors_of(tiny_base)
    linear = [name for name in original if name.split(".")[-2] in LINEAR]
    squares = [
        sum(((seen[n] - original[n]) ** 2).sum().item() for n in linear),
        sum((original[n] ** 2).sum().item() for n in linear),
    ]
    for onto in ("quantized", "original"):
        report = merge(tiny_base, two_on_nf4, tmp_path / onto, "fp32", onto=onto)
        assert report.onto_difference == pytest.approx((squares[0] / squares[1]) ** 0.5, rel=1e-3)
        assert 0.03 < report.onto_difference < 0.2


@pytest.mark.parametrize("onto", ["quantized", "original"])
def test_nf4_is_the_merged_fp32_weights_quantised_once(tiny_base, two_on_nf4, tmp_path, onto):
    from bitsandbytes.functional import quantize_4bit

    report = merge(tiny_base, two_on_nf4, tmp_path / "nf4", "nf4", onto=onto)
    merge(tiny_base, two_on_nf4, tmp_path / "fp32", "fp32", onto=onto)
    packed, merged = tensors_of(tmp_path / "nf4"), tensors_of(tmp_path / "fp32")
    original = tensors_of(tiny_base)
    for name, weight in merged.items():
        if name.split(".")[-2] not in LINEAR:
            assert torch.equal(packed[name], original[name])
            continue
        data, state = quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
        assert torch.equal(packed[name], data)
        for key, tensor in state.as_dict(packed=True).items():
            assert torch.equal(packed[f"{name}.{key}"], tensor), key
    assert set(packed) == set(merged) | {key for key in packed if ".weight." in key}
    assert 0 < report.overall.kept < 1.5
    assert report.overall.error > 0.1


@pytest.mark.parametrize("onto", ["quantized", "original"])
def test_what_four_bits_took_is_measured(tiny_base, two_on_nf4, tmp_path, onto):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    report = merge(tiny_base, two_on_nf4, tmp_path / "out", "nf4", onto=onto)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").dequantize(torch.float32).state_dict()
    for module in report.modules:
        name = f"{module.module}.weight"
        original, update = tensors_of(tiny_base)[name], update_of(two_on_nf4, module.module)
        seen = dequantize_4bit(*quantize_4bit(original, compress_statistics=True, quant_type="nf4"))
        exact = update + (seen if onto == "quantized" else original)
        kept = ((merged[name] - seen) * update).sum() / (update**2).sum()
        assert module.kept == pytest.approx(kept.item(), abs=1e-4)
        assert module.error == pytest.approx(relative(merged[name] - exact + update, update), rel=1e-3)
        assert module.update_norm == pytest.approx(update.norm().item(), rel=1e-5)


def test_nf4_loads_in_plain_transformers_as_if_quantised_on_loading(tiny_base, two, tmp_path):
    merge(tiny_base, two, tmp_path / "nf4", "nf4")
    merge(tiny_base, two, tmp_path / "fp32", "fp32")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "nf4")
    assert model.is_loaded_in_4bit
    assert type(model.model.layers[0].self_attn.q_proj).__name__ == "Linear4bit"
    assert type(model.lm_head).__name__ == "Linear"
    on_loading = logits_of(tmp_path / "fp32", quantization_config=nf4())
    assert torch.equal(logits_of(tmp_path / "nf4"), on_loading)


def test_nf4_without_updates_keeps_the_bases_own_numbers(tiny_base, two_on_nf4, tmp_path):
    """Quantising dequantised weights again would move them: only what takes an update may change."""
    merge(tiny_base, two_on_nf4[1:], tmp_path / "out", "nf4")
    on_loading = AutoModelForCausalLM.from_pretrained(tiny_base, quantization_config=nf4())
    on_loading.save_pretrained(tmp_path / "bnb")
    ours, theirs = tensors_of(tmp_path / "out"), tensors_of(tmp_path / "bnb")
    assert ours.keys() == theirs.keys()
    touched = {f"{module}.weight" for module in read_lora(two_on_nf4[1][0]).modules}
    for name, tensor in theirs.items():
        if not any(name == weight or name.startswith(f"{weight}.") for weight in touched):
            assert torch.equal(ours[name], tensor), name


def test_small_updates_vanish_in_nf4_on_the_dequantised_base(tiny_base, tmp_path):
    kept = []
    for number, size in enumerate((0.1, 0.001)):
        lora = save_lora(tiny_base, tmp_path / f"lora{number}", size=size)
        give_manifest(lora, tiny_base, precision="nf4")
        kept.append(merge(tiny_base, [(lora, 1.0)], tmp_path / f"out{number}", "nf4").overall.kept)
    assert kept[0] > 0.5
    assert kept[1] < 0.05


def test_gpt2_in_nf4(tmp_path):
    base = save_tiny_gpt2(tmp_path / "gpt2")
    lora = save_lora(base, tmp_path / "a", target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    give_manifest(lora, base, precision="nf4")
    trained_as = logits_of(in_fp32(stacked(base, [(lora, 1.0)], quantization_config=nf4())))
    merge(base, [(lora, 1.0)], tmp_path / "fp32", "fp32")
    assert relative(logits_of(tmp_path / "fp32"), trained_as) < 1e-5
    merge(base, [(lora, 1.0)], tmp_path / "nf4", "nf4", onto="original")
    merge(base, [(lora, 1.0)], tmp_path / "fp32 original", "fp32", onto="original")
    on_loading = logits_of(tmp_path / "fp32 original", quantization_config=nf4())
    assert relative(logits_of(tmp_path / "nf4"), on_loading) < 1e-6


@pytest.mark.parametrize("double_quant", [True, False])
def test_a_base_that_is_stored_in_4_bit(tiny_base, two, tmp_path, double_quant):
    base = shutil.copytree(tiny_base, tmp_path / "bnb")
    (base / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(tiny_base, quantization_config=nf4(double_quant))
    model.save_pretrained(base)
    stack = logits_of(in_fp32(stacked(tiny_base, two, quantization_config=nf4(double_quant))))
    report = merge(base, two, tmp_path / "fp32", "fp32")
    assert report.onto == "quantized"
    assert "quantization_config" not in json.loads((tmp_path / "fp32" / "config.json").read_text())
    assert relative(logits_of(tmp_path / "fp32"), stack) < 1e-5
    merge(base, two[1:], tmp_path / "nf4", "nf4")
    merge(base, two[1:], tmp_path / "fp32b", "fp32")
    half = logits_of(tmp_path / "nf4")
    assert relative(half, logits_of(tmp_path / "fp32b", quantization_config=nf4(double_quant))) < 0.01
    with pytest.raises(SettingError, match=r"holds no original weights: .* or give the original checkpoint as base\.$"):
        merge(base, two, tmp_path / "out", onto="original")
    trained_here = give_manifest(shutil.copytree(two[1][0], tmp_path / "here"), base, precision="nf4")
    with pytest.raises(SettingError, match=r"holds no original weights: merge onto the quantized ones\.$"):
        merge(base, [(trained_here, 1.0)], tmp_path / "out", onto="original")


def test_adapters_that_disagree_on_the_ground_need_a_word(tiny_base, two, two_on_nf4, tmp_path):
    other = give_manifest(shutil.copytree(two[1][0], tmp_path / "other"), tiny_base, precision="bf16")
    with pytest.raises(SettingError, match="--onto quantized or --onto original"):
        merge(tiny_base, [two_on_nf4[0], (other, 1.0)], tmp_path / "out")
    report = merge(tiny_base, [two_on_nf4[0], (other, 1.0)], tmp_path / "out", onto="original")
    assert report.onto == "original"
