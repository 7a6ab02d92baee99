"""Weights unpacked once: the same numbers, and nothing left behind."""

import pytest
import torch
from bitsandbytes.nn import Linear4bit

from asu_lora import load
from asu_lora.models import unpacked_weights
from asu_lora.models.loading import load_base
from asu_lora.models.unpacked_weights import unpacked


def four_bit(model) -> list[torch.nn.Module]:
    return [module for module in model.modules() if isinstance(module, Linear4bit)]


def logits(model) -> torch.Tensor:
    ids = torch.arange(3, 27).reshape(2, 12)
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_logits_are_the_same_to_the_bit(taught_base, forgetting_adapter, nf4_compute):
    stack = load(load_base(str(taught_base), "nf4", "cpu"), [str(forgetting_adapter)])
    packed = logits(stack.model)
    with unpacked(stack.base.model):
        assert all("forward" in vars(module) for module in four_bit(stack.model))
        assert torch.equal(logits(stack.model), packed)
    assert not any("forward" in vars(module) for module in four_bit(stack.model))
    assert torch.equal(logits(stack.model), packed)


def test_a_bias_is_added_and_scales_may_be_stored_as_they_are(nf4_compute):
    compute = {"fp32": torch.float32, "bf16": torch.bfloat16}[nf4_compute]
    torch.manual_seed(0)
    for compressed in (True, False):
        layer = Linear4bit(128, 48, compute_dtype=compute, compress_statistics=compressed, quant_type="nf4")
        layer.support_avx512bf16_for_cpu = False
        layer.load_state_dict({"weight": torch.randn(48, 128), "bias": torch.randn(48)})
        layer = layer.to("cpu").eval()
        x = torch.randn(3, 5, 128)
        with torch.no_grad():
            packed = layer(x)
            with unpacked(layer):
                assert torch.equal(layer(x), packed) and layer(x).dtype == x.dtype


def test_no_more_is_unpacked_than_there_is_room_for(taught_base, monkeypatch):
    base = load_base(str(taught_base), "nf4", "cpu")
    first = four_bit(base.model)[0]
    room = first.in_features * first.out_features * base.compute_dtype.itemsize
    monkeypatch.setattr(unpacked_weights, "free_memory", lambda device: room * unpacked_weights.SHARE)
    packed = logits(base.model)
    with unpacked(base.model):
        assert [module for module in four_bit(base.model) if "forward" in vars(module)] == [first]
        assert torch.equal(logits(base.model), packed)


def test_an_error_inside_and_one_inside_another_leave_the_layers_as_they_were(taught_base):
    base = load_base(str(taught_base), "nf4", "cpu")
    with pytest.raises(KeyError), unpacked(base.model), unpacked(base.model):
        raise KeyError
    assert not any("forward" in vars(module) for module in four_bit(base.model))


def test_floats_are_left_alone(base):
    with unpacked(base.model):
        assert not any("forward" in vars(module) for module in base.model.modules())
