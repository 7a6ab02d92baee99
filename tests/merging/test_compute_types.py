"""Merging onto NF4 weights as the training saw them: cast to its compute type, quantised, made whole in that type."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from asu_lora.adapters.combine import combine
from asu_lora.adapters.manifest import read_manifest, write_manifest
from asu_lora.bases.source import resolve_base
from asu_lora.errors import SettingError
from asu_lora.merging.deployments import deployments
from asu_lora.merging.merge import merge
from asu_lora.models.loading import load_base
from tests.support.lora_folders import give_manifest, save_lora, tensors_of, update_of
from tests.support.tiny_base import save_tiny_base, tiny_tokenizer

COMPUTE = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@pytest.fixture(scope="module", params=["float32", "float16", "bfloat16"])
def stored(request, tmp_path_factory):
    """A base with weights that no 16-bit type holds, stored in each type."""
    folder = save_tiny_base(tmp_path_factory.mktemp("bases") / request.param, seed=3)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, request.param))
    model.save_pretrained(folder)
    return folder


def trained(base, folder, compute: str, where: str = "quantization", seed: int = 0):
    """An adapter with the manifest of a training on the NF4 base with this compute type."""
    give_manifest(save_lora(base, folder, seed=seed), base, "nf4")
    manifest = read_manifest(folder)
    if where == "quantization":
        manifest.base.quantization["bnb_4bit_compute_dtype"] = compute
    else:  # as the program recorded it before
        manifest.training["compute_dtype"] = compute
    write_manifest(folder, manifest)
    return folder


@pytest.fixture
def computing(monkeypatch):
    def switch(name: str) -> None:
        monkeypatch.setattr("asu_lora.hardware.precision.fast_compute_dtype", lambda device: COMPUTE[name])

    return switch


def seen_by_the_training(base) -> dict[str, torch.Tensor]:
    """The weights of the linear layers that the loaded base multiplies with, in fp32."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    loaded = load_base(str(base), "nf4", "cpu")
    layers = {name: module for name, module in loaded.model.named_modules() if isinstance(module, Linear4bit)}
    assert len(layers) == 14 and {module.compute_dtype for module in layers.values()} == {loaded.compute_dtype}
    return {
        name: dequantize_4bit(module.weight.data, module.weight.quant_state).to(loaded.compute_dtype).float()
        for name, module in layers.items()
    }


@pytest.mark.parametrize("where", ["quantization", "training"])
@pytest.mark.parametrize("compute", COMPUTE)
def test_the_merged_weights_are_what_the_training_saw_and_the_update(stored, compute, where, computing, tmp_path):
    computing(compute)
    lora = trained(stored, tmp_path / "lora", compute, where)
    merge(stored, [(lora, 1.0)], tmp_path / "out", "fp32")
    merged = tensors_of(tmp_path / "out")
    for module, weight in seen_by_the_training(stored).items():
        update = update_of([(lora, 1.0)], module)
        ours = merged[f"{module}.weight"]
        if isinstance(update, torch.Tensor):
            torch.testing.assert_close(ours, weight + update, rtol=0, atol=3e-7)
        else:
            assert torch.equal(ours, weight), module


@pytest.mark.parametrize("compute", COMPUTE)
def test_a_merge_to_4_bit_holds_the_numbers_of_pefts_own_merge(stored, compute, computing, tmp_path):
    computing(compute)
    lora = trained(stored, tmp_path / "lora", compute)
    merge(stored, [(lora, 1.0)], tmp_path / "out", "nf4")
    ours = tensors_of(tmp_path / "out")
    theirs = PeftModel.from_pretrained(load_base(str(stored), "nf4", "cpu").model, lora).merge_and_unload()
    theirs = {name: parameter for name, parameter in theirs.named_parameters() if parameter.dtype == torch.uint8}
    assert len(theirs) == 14
    for name, parameter in theirs.items():
        same = (ours[name].reshape(-1) == parameter.data.reshape(-1)).float().mean()
        # sums of the update are rounded in another order: a number in a thousand may fall to the other side
        assert same == 1 if name.split(".")[-2] not in ("q_proj", "v_proj") else same > 0.999, (name, same)


@pytest.mark.parametrize("compute", COMPUTE)
def test_with_weight_0_a_merge_to_4_bit_is_the_base_as_it_was_loaded(stored, compute, computing, tmp_path):
    computing(compute)
    lora = trained(stored, tmp_path / "lora", compute)
    merge(stored, [(lora, 0.0)], tmp_path / "out", "nf4")
    before, after = seen_by_the_training(stored), seen_by_the_training(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_adapters_of_two_compute_types_need_a_word_where_it_matters(stored, tmp_path):
    loras = [(trained(stored, tmp_path / compute, compute, seed=seed), 1.0) for seed, compute in enumerate(COMPUTE)]
    if stored.name == "bfloat16":  # neither cast loses anything
        merge(stored, loras, tmp_path / "out", "fp32")
        return
    with pytest.raises(SettingError, match="compute types .bfloat16, float32."):
        merge(stored, loras, tmp_path / "out", "fp32")
    assert not (tmp_path / "out").exists()
    merge(stored, loras, tmp_path / "out", "fp32", onto="quantized")


@pytest.mark.parametrize("where", ["quantization", "training"])
def test_a_sum_keeps_the_compute_types_of_what_is_in_it(stored, where, tmp_path):
    """Merged as one or apart it is the same; of two types it is refused in either order, summed twice too."""
    bf16, again, fp32 = (
        trained(stored, tmp_path / name, compute, where, seed)
        for seed, (name, compute) in enumerate((("one", "bfloat16"), ("two", "bfloat16"), ("three", "float32")))
    )
    combine([bf16, again], [1.0, 0.5], tmp_path / "same")
    merge(stored, [(bf16, 1.0), (again, 0.5)], tmp_path / "apart", "fp32")
    merge(stored, [(tmp_path / "same", 1.0)], tmp_path / "as-one", "fp32")
    apart, as_one = tensors_of(tmp_path / "apart"), tensors_of(tmp_path / "as-one")
    for name, tensor in apart.items():
        torch.testing.assert_close(as_one[name], tensor, rtol=0, atol=3e-7)
    for at, order in enumerate(([fp32, bf16], [bf16, fp32], [tmp_path / "same", fp32])):
        combine(order, [1.0, 1.0], tmp_path / f"sum{at}")
        combine([tmp_path / f"sum{at}", again], [1.0, 1.0], tmp_path / f"twice{at}")
        for name in (f"sum{at}", f"twice{at}"):
            if stored.name == "bfloat16":  # neither cast loses anything
                assert set(read_manifest(tmp_path / name).method.details["compute_dtypes"]) == set(COMPUTE)
                continue
            with pytest.raises(SettingError, match="compute types .bfloat16, float32."):
                merge(stored, [(tmp_path / name, 1.0)], tmp_path / "out", "fp32")


def test_a_training_records_its_compute_type(taught_base, forgetting_adapter):
    manifest = read_manifest(forgetting_adapter)
    assert manifest.base.quantization["bnb_4bit_compute_dtype"] == manifest.training["compute_dtype"]


@pytest.mark.parametrize("compute", COMPUTE)
def test_a_4_bit_folder_is_tried_in_the_type_that_is_fast_here(stored, compute, computing, monkeypatch, tmp_path):
    from bitsandbytes.nn import Linear4bit

    computing("bfloat16")
    merge(stored, [(trained(stored, tmp_path / "lora", "bfloat16"), 1.0)], tmp_path / "out", "nf4")
    monkeypatch.setattr("asu_lora.merging.deployments.fast_compute_dtype", lambda device: COMPUTE[compute])
    ways = deployments(resolve_base(str(tmp_path / "out")), "nf4", torch.device("cpu"))
    model = next(way for way in ways if way.written).open()
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 14 and {layer.compute_dtype for layer in layers} == {COMPUTE[compute]}
    held = {p.dtype for p in model.parameters() if p.is_floating_point()}
    assert held == {torch.float32 if stored.name == "float32" else COMPUTE[compute]}
    assert model(input_ids=torch.tensor([[5, 6, 7]])).logits.isfinite().all()


@pytest.mark.parametrize("compute", COMPUTE)
def test_a_base_stored_in_4_bit_is_merged_as_its_layers_multiply(stored, compute, computing, tmp_path):
    """Whatever type its numbers were packed from: the product makes them whole in the compute type."""
    computing(compute)
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, stored.name)
    )
    packed = AutoModelForCausalLM.from_pretrained(
        stored, dtype=getattr(torch, stored.name), quantization_config=four_bit
    )
    packed.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    layer = load_base(str(tmp_path / "base"), "nf4", "cpu").model.get_submodule("model.layers.1.mlp.up_proj")
    seen = layer(torch.eye(layer.in_features, dtype=COMPUTE[compute])).T.float()
    merge(tmp_path / "base", [(trained(tmp_path / "base", tmp_path / "lora", compute), 1.0)], tmp_path / "out", "fp32")
    assert torch.equal(tensors_of(tmp_path / "out")["model.layers.1.mlp.up_proj.weight"], seen)
