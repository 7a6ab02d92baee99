"""Training through 4-bit rounding: what the student computes, what gets gradients, when it begins."""

import pytest
import torch
import transformers as tf
from peft.utils.integrations import dequantize_module_weight
from torch.nn.functional import linear

from asu_lora.adapters.lora_folder import read_adapter
from asu_lora.audit.rounding import to_nf4
from asu_lora.data.encoding import Encoded
from asu_lora.data.training_rows import TrainingRows
from asu_lora.forgetting.forget import forget
from asu_lora.losses import TrainingSet
from asu_lora.losses.forget.asu import ASU
from asu_lora.models.frozen_adapters import NEW
from asu_lora.models.loading import load_base
from asu_lora.training.new_adapter import adapted
from asu_lora.training.phases import phases
from asu_lora.training.rounding import ThroughRounding, rounded_maps
from tests.support.tiny_run import tiny_request, tiny_settings

SIZES = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip


@pytest.fixture(params=["fp32", "nf4"])
def base(tiny_base, request):
    return load_base(str(tiny_base), request.param, "cpu")


def stirred(student):
    """B is no zero any more."""
    generator = torch.Generator().manual_seed(1)
    for key, parameter in student.named_parameters():
        if "lora_B" in key:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)


def test_a_map_does_what_the_merged_and_rounded_weight_does(base):
    settings = tiny_settings()
    with adapted(base.model, settings) as student:
        stirred(student)
        owner = next(module for name, module in student.named_modules() if name.endswith("down_proj"))
        x = torch.randn(3, owner.in_features, generator=torch.Generator().manual_seed(2)).to(base.compute_dtype)
        weight = dequantize_module_weight(owner.base_layer).float()
        update = owner.scaling[NEW] * (owner.lora_B[NEW].weight @ owner.lora_A[NEW].weight)
        rounded = to_nf4((weight + 1.5 * update).to(base.compute_dtype).float()).to(base.compute_dtype)
        exact = loose = {"atol": 1e-5} if base.compute_dtype == torch.float32 else {"atol": 0.02, "rtol": 0.02}
        with torch.no_grad(), rounded_maps(student, 1.5, base.compute_dtype) as maps:
            assert len(maps) == 2 * 7
            before = owner(x)
            for each in maps:
                each.round()
            owner.scaling[NEW] *= 1.5  # the dose that is rounded: all of the update is in the 4-bit weight
            got = owner(x).float()
            assert torch.allclose(got, linear(x, rounded).float(), **exact)
            owner.scaling[NEW] /= 1.5
            half = owner(x).float()  # at dose 1 a third of the update is less there
            less = got - 0.5 * linear(x.float(), update)
            assert torch.allclose(half, less, **loose) and not torch.allclose(half, before.float(), atol=1e-3)
            for each in maps:
                each.plain()
            assert torch.equal(owner(x), before)
        assert isinstance(owner.base_layer, torch.nn.Linear)  # the map itself stands there again


def test_gradients_are_those_of_the_update_alone(base):
    with adapted(base.model, tiny_settings()) as student:
        stirred(student)
        owner = next(module for name, module in student.named_modules() if name.endswith("down_proj"))
        x = torch.randn(5, owner.in_features).to(base.compute_dtype).requires_grad_()
        pair = [owner.lora_A[NEW].weight, owner.lora_B[NEW].weight]
        plain = torch.autograd.grad(owner(x).float().sum(), pair)
        with rounded_maps(student, 1.0, base.compute_dtype) as maps:
            for each in maps:
                each.round()
            rounded = torch.autograd.grad(owner(x).float().sum(), [*pair, x])
            weight = next(each for each in maps if each.owner is owner)
            by_x = weight(torch.eye(owner.in_features, dtype=base.compute_dtype)).float()  # R(W + D) - D
            by_x = by_x.T + owner.scaling[NEW] * (pair[1] @ pair[0])
        for one, other in zip(plain, rounded[:2], strict=True):
            assert torch.allclose(one, other, atol=1e-5)
        assert torch.allclose(rounded[2].float(), by_x.sum(0).expand_as(x), atol=1e-4 if x.dtype.itemsize == 4 else 0.05)


def forget_set(rows: int) -> TrainingSet:
    loss = ASU()
    item = Encoded((1, 2), (3, 4), 0)
    examples = tiny_request().forget
    return TrainingSet(loss, TrainingRows({"answer": [item] * rows}, examples=examples))


@pytest.mark.parametrize(
    ("rounding", "own_words", "first", "second"),
    [(0.0, 0.25, (9, 9), (3, 3)), (0.25, 0.25, (9, 9), (3, 0)), (0.5, 0.25, (9, 6), (3, 0)), (1.0, 0.25, (9, 0), (3, 0)),
     (0.1, 0.25, (9, 9), (3, 1)), (0.5, 0.0, (12, 6), None)],
)  # fmt: skip
def test_the_last_steps_see_rounded_weights(rounding, own_words, first, second):
    config = tiny_settings(rounding=rounding, own_words=own_words, epochs=4, batch_size=2)
    one, two = phases(config, {"forget": forget_set(6)})
    assert (one.steps, one.rounded_from) == first
    assert (two and (two.steps, two.rounded_from)) == second


def test_a_run_that_may_end_early_sees_them_from_the_first_step():
    config = tiny_settings(rounding=0.1, own_words=0.0, epochs=4, batch_size=2, stop_early=True)
    forget = forget_set(6)
    forget.loss.needs = {"answer": ("teacher", "base_logprob")}
    assert phases(config, {"forget": forget})[0].rounded_from == 0


def test_nothing_is_rounded_before_its_step(tiny_base):
    base = load_base(str(tiny_base), "fp32", "cpu")
    with adapted(base.model, tiny_settings()) as student, rounded_maps(student, 1.0, torch.float32) as maps:
        through, state = ThroughRounding(maps, since=2), type("State", (), {"global_step": 1})()
        through.on_step_begin(None, state, None)
        assert all(each.packed is None for each in maps)
        state.global_step = 2
        through.on_step_begin(None, state, None)
        assert all(each.packed is not None for each in maps)


def survives(folder, base) -> float:
    """The share of the update that is still there once base and adapter are merged and rounded to NF4."""
    lora, kept, whole = read_adapter(folder), 0.0, 0.0
    for name, module in base.model.named_modules():
        if name in lora.modules:
            a, b = lora.factors(name)
            update, weight = lora.modules[name].scaling * (b @ a), dequantize_module_weight(module).float()
            kept += ((to_nf4(weight + update) - to_nf4(weight)) * update).sum().item()
            whole += (update * update).sum().item()
    return kept / whole


def test_an_adapter_trained_so_is_more_of_it_left_after_rounding(taught_base, tmp_path):
    base = load_base(str(taught_base), "nf4", "cpu")
    settings = dict(precision="nf4", epochs=10, own_words=0.0, seed=3, lr=5e-3)
    for name, share in (("plain", 0.0), ("rounded", 1.0)):
        forget(tiny_request(), base, tiny_settings(rounding=share, **settings), name=name, store=tmp_path)
    assert survives(tmp_path / "rounded", base) > survives(tmp_path / "plain", base)


def test_maps_that_are_no_linear_ones_stay_as_they_are():
    model = tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=32)).eval()
    with adapted(model, tiny_settings()) as student, rounded_maps(student, 1.0, torch.float32) as maps:
        assert maps == []
