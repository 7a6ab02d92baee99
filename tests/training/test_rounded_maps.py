"""The student as if its adapter were merged and all rounded to 4 bits."""

import pytest
import torch
import transformers as tf
from peft.utils.integrations import dequantize_module_weight
from torch.nn.functional import linear

from asu_lora.audit.rounding import to_nf4
from asu_lora.models.frozen_adapters import NEW
from asu_lora.models.loading import load_base
from asu_lora.training.doses import Doses
from asu_lora.training.new_adapter import adapted
from asu_lora.training.rounded_maps import RoundedMap, merged_and_rounded
from tests.support.tiny_run import tiny_settings


@pytest.fixture(params=["fp32", "nf4"])
def base(tiny_base, request):
    return load_base(str(tiny_base), request.param, "cpu")


def stirred(student):
    """B is no zero any more."""
    generator = torch.Generator().manual_seed(1)
    for key, parameter in student.named_parameters():
        if "lora_B" in key:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("strength", [1.0, 1.5])
def test_a_map_does_what_the_merged_and_rounded_weight_does(base, strength):
    close = {"atol": 1e-5} if base.compute_dtype == torch.float32 else {"atol": 0.02, "rtol": 0.02}
    with adapted(base.model, tiny_settings()) as student, torch.no_grad():
        stirred(student)
        owner = next(module for name, module in student.named_modules() if name.endswith("down_proj"))
        x = torch.randn(1, 3, owner.in_features, generator=torch.Generator().manual_seed(2)).to(base.compute_dtype)
        update = owner.scaling[NEW] * (owner.lora_B[NEW].weight @ owner.lora_A[NEW].weight)
        merged = dequantize_module_weight(owner.base_layer).float() + strength * update
        rounded = to_nf4(merged.to(base.compute_dtype).float())
        before = owner(x)
        doses = Doses(student)
        with merged_and_rounded(student, strength, base.compute_dtype), doses.given(torch.tensor(strength)):
            got = owner(x).float()
        assert torch.allclose(got, linear(x.float(), rounded), **close)
        assert not torch.allclose(got, before.float(), atol=1e-3)
        assert torch.equal(owner(x), before) and isinstance(owner.base_layer, torch.nn.Linear)


def test_all_maps_of_the_adapter_are_rounded_and_put_back_whatever_happens(base):
    with adapted(base.model, tiny_settings()) as student:
        with pytest.raises(KeyError), merged_and_rounded(student, 1.0, base.compute_dtype):
            assert sum(isinstance(module, RoundedMap) for module in student.modules()) == 2 * 7
            assert student.base_model.model.model.layers[0].mlp.down_proj.base_layer.out_features
            raise KeyError
        assert not any(isinstance(module, RoundedMap) for module in student.modules())


def test_gpt_2_s_maps_whose_weights_lie_the_other_way_are_rounded_too():
    model = tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=64, n_embd=64, n_layer=1, n_head=2, n_positions=32)).eval()
    with adapted(model, tiny_settings()) as student, torch.no_grad():
        stirred(student)
        owner = next(module for name, module in student.named_modules() if name.endswith("mlp.c_fc"))
        update = owner.scaling[NEW] * (owner.lora_B[NEW].weight @ owner.lora_A[NEW].weight)
        rounded, x = to_nf4(owner.base_layer.weight.T + update), torch.randn(1, 3, 64)
        with merged_and_rounded(student, 1.0, torch.float32):
            assert torch.allclose(owner(x), linear(x, rounded, owner.base_layer.bias), atol=1e-5)
