"""What autograd keeps of casts to fp32: less memory, the same gradients to the bit."""

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch

from asu_lora.forgetting.dry_run import planned_run
from asu_lora.memory_plan.byte_counts import quantised_weights
from asu_lora.memory_plan.meta_simulation import kernels, on_meta
from asu_lora.memory_plan.planned_run import live_bytes
from asu_lora.models.loading import load_base
from asu_lora.training.cast_recomputation import _Casts, _View, recompute_casts
from asu_lora.training.new_adapter import adapted
from asu_lora.training.student import Student
from tests.support.tiny_run import tiny_request, tiny_settings

BATCH = {
    "input_ids": torch.arange(1, 121).view(3, 40),
    "attention_mask": torch.ones(3, 40, dtype=torch.long),
    "positions": torch.arange(60),
}


def gradients(model, config) -> list[torch.Tensor]:
    torch.manual_seed(0)
    with adapted(model, config) as peft:
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        student = Student(peft, config.gradient_checkpointing)
        student.train()
        student([BATCH, BATCH]).float().sin().sum().backward()
        return [p.grad for p in peft.parameters() if p.requires_grad]


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.2}, {"gradient_checkpointing": True}, {"precision": "fp32"}])
def test_gradients_are_the_same_to_the_bit(tiny_base, changes, monkeypatch):
    config = tiny_settings(**{"precision": "nf4"} | changes)
    model = load_base(str(tiny_base), config.precision, "cpu").model
    ours = gradients(model, config)
    monkeypatch.setattr("asu_lora.training.student.recompute_casts", nullcontext)
    plain = gradients(model, config)
    assert all(torch.equal(*pair) for pair in zip(ours, plain, strict=True))
    assert all(gradient.any() for gradient in ours)


def test_a_step_on_a_16_bit_base_holds_much_less(tiny_base, monkeypatch):
    config = tiny_settings(precision="bf16")  # on a CPU without bf16 units NF4 computes in fp32
    run = planned_run(tiny_request(), str(tiny_base), config)
    quantised = quantised_weights(run.model)  # before there are the adapter's own

    def held() -> int:
        with adapted(run.model, config) as peft:
            live = live_bytes(run)
            live.ignore(peft.parameters())
            student = Student(peft)
            student.train()
            with kernels(quantised), live, torch.enable_grad():
                hidden = student([on_meta(BATCH)])
                found = live.live["others"]
                del hidden
            return found

    ours = held()
    monkeypatch.setattr("asu_lora.training.student.recompute_casts", nullcontext)
    assert ours < 0.7 * held()


def saved_by(make) -> tuple[torch.Tensor, object]:
    """What autograd keeps of an fp32 copy that ``make`` makes of 16-bit numbers, and the numbers."""
    source = torch.randn(4, 6).bfloat16()
    with recompute_casts():
        out = make(source) * torch.ones(6, requires_grad=True)
    return out.grad_fn, source


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.float(),
        lambda x: x.to(torch.float32),
        lambda x: x.to(dtype=torch.float32),
        lambda x: x.half().float(),
        lambda x: x.float()[1:, 2:5].new_zeros(6) + x.float(),
        lambda x: x.t().float().t(),
        lambda x: x.float() + 1,
        lambda x: x.float().add_(1),
        lambda x: x.float().view(-1)[3:9],
        lambda x: x[:1].float(),
        lambda x: x.double().float(),
        lambda x: x.to(torch.float32, copy=True).exp_(),
        lambda x: x.float()[0].expand(3, 6),
    ],
)
def test_what_is_unpacked_is_what_was_saved(make):
    """Casts, views of casts, and tensors that only look like one."""
    node, source = saved_by(make)
    assert torch.equal(node._saved_self, make(source))


def test_casts_are_told_from_what_is_no_cast():
    def is_cast(make) -> bool:
        with _Casts() as casts:
            made = make(torch.randn(4, 6).bfloat16())
        return isinstance(casts.pack(made), _View)

    assert is_cast(lambda x: x.float()) and is_cast(lambda x: x.float().view(-1)[3:9])
    assert not is_cast(lambda x: x.float().add_(1)) and not is_cast(lambda x: x[:1].float())


def test_a_source_changed_afterwards_is_no_silent_error():
    node, source = saved_by(lambda x: x.float())
    source.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        node._saved_self  # noqa: B018


def test_nothing_outlives_the_step():
    gc.disable()
    try:
        node, source = saved_by(lambda x: x.float())
        storage = weakref.ref(source.untyped_storage())
        del node, source
        assert storage() is None
    finally:
        gc.enable()
