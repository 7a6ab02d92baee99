"""Adding and rounding a run of bf16 rows: torch's way and numba's, against sums by hand."""

import tempfile

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asu_lora.errors import BaseModelError
from asu_lora.merging import merge as merging
from asu_lora.merging.row_workers import add_and_round, compiled_bf16, one_thread, squared_norm, workers
from tests.support.lora_folders import save_lora, tensors_of, two_adapters
from tests.support.tiny_base import save_tiny_base

two = two_adapters


def by_numba(weight, left, right):
    """Through two files, at odd places there."""
    merge_rows = compiled_bf16() or pytest.skip("numba is an extra and not installed")
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(b"..." + weight.view(torch.uint8).numpy().tobytes())
        source.flush()
        *sums, problem = merge_rows(source.fileno(), 3, target.fileno(), 5, left.numpy(), right.numpy())
        assert not problem
        written = bytearray(target.read()[5:])
    return torch.frombuffer(written, dtype=torch.bfloat16).view(weight.shape), sums


def by_torch(weight, left, right):
    with workers() as space:
        return add_and_round(weight, left, right, torch.bfloat16, space)


@pytest.mark.parametrize("way", [by_torch, by_numba])
@settings(max_examples=40, deadline=None)
@example(rows=1, columns=1, rank=12, seed=1, size=1.0)
@example(rows=1, columns=1, rank=5, seed=1, size=1.0)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 70),
    rank=st.integers(1, 12),
    seed=st.integers(0, 2**31),
    size=st.sampled_from([1e-4, 1e-2, 1.0]),
)
def test_rounded_once_and_measured(way, rows, columns, rank, seed, size):
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(rows, columns, generator=generator) * 0.02).bfloat16()
    left, right = torch.randn(rows, rank, generator=generator) * size, torch.randn(rank, columns, generator=generator)
    rounded, (change, along) = way(weight, left, right)
    delta = left.double() @ right.double()
    exact = weight.double() + delta
    off = rounded.double() - exact
    # half a step of bf16, whose numbers have 8 bits, and what the fp32 sum is off
    fp32_off = 1e-6 * (delta.abs() + exact.abs())
    assert (off.abs() <= exact.abs() * 2**-8 + fp32_off + 1e-30).all()
    assert (rounded != exact.float().bfloat16()).sum() <= 1 + rows * columns // 500  # at the edge between two
    scale = off.norm() * delta.norm() + 1e-30
    # what the fp32 sum is off counts here too: rounding may be smaller than that (the two examples above)
    squares_off = (2 * off.abs() * fp32_off + fp32_off**2).sum().item()
    assert change == pytest.approx((off**2).sum().item(), rel=1e-2, abs=1e-12 * scale.item() + squares_off)
    assert abs(along - (off * delta).sum().item()) <= 2e-3 * scale.item() + (fp32_off * delta.abs()).sum().item()
    assert squared_norm(left, right) == pytest.approx((delta**2).sum().item(), rel=1e-4)


def test_adapters_that_cancel_change_nothing():
    left, right = torch.randn(50, 4), torch.randn(4, 30)
    norms = [
        squared_norm(torch.cat([weight * left for weight in weights], 1), torch.cat([right] * len(weights)))
        for weights in ((1, -1), (1, -0.75, -0.25), (0.1, 0.2, -0.3))
    ]
    assert all(0 <= norm < 1e-9 for norm in norms)


@pytest.mark.parametrize("way", [by_torch, by_numba])
def test_more_rows_than_a_piece_holds(way):
    torch.manual_seed(0)
    weight, left, right = torch.randn(300, 700).bfloat16(), torch.randn(300, 5), torch.randn(5, 700)
    rounded, _ = way(weight, left, right)
    expected = (weight.float() + left @ right).bfloat16()
    assert (rounded != expected).float().mean() < 1e-3 and torch.allclose(rounded.float(), expected.float(), rtol=1e-2)


@pytest.mark.parametrize("way", [by_torch, by_numba])
def test_a_tie_goes_to_the_even_number(way):
    weight = torch.tensor([[1.0, 1.0078125]], dtype=torch.bfloat16)  # an even and an odd last bit
    assert way(weight, torch.ones(1, 1), torch.full((1, 2), 0.00390625))[0].tolist() == [[1.0, 1.015625]]


def test_numba_says_what_it_could_not_do(tmp_path):
    merge_rows = compiled_bf16() or pytest.skip("numba is an extra and not installed")
    from asu_lora.merging.bf16_kernels import NOT_READ, NOT_WRITTEN

    (tmp_path / "short").write_bytes(bytes(10))
    (tmp_path / "whole").write_bytes(bytes(64))
    left, right = torch.ones(4, 1).numpy(), torch.ones(1, 8).numpy()
    with (
        (tmp_path / "short").open("rb") as short,
        (tmp_path / "whole").open("rb") as whole,
        tempfile.TemporaryFile() as target,
    ):
        assert merge_rows(short.fileno(), 0, target.fileno(), 0, left, right)[2] == NOT_READ
        assert merge_rows(whole.fileno(), 0, short.fileno(), 0, left, right)[2] == NOT_WRITTEN


@pytest.mark.parametrize("way", ["torch", "numba"])
def test_a_base_in_bf16_merges_alike_both_ways(tiny_base, two, tmp_path, monkeypatch, way):
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.bfloat16).save_pretrained(base)
    used = []
    if way == "numba":
        compiled = compiled_bf16() or pytest.skip("numba is an extra and not installed")
        monkeypatch.setattr(merging, "WORTH_COMPILING", 0)
        monkeypatch.setattr(merging, "compiled_bf16", lambda: lambda *a: used.append(1) or compiled(*a))
    report = merging.merge(base, two, tmp_path / "out", "bf16")
    assert len(used) == (len(report.modules) if way == "numba" else 0)
    before, after = tensors_of(base), tensors_of(tmp_path / "out")
    from tests.support.lora_folders import update_of

    for module in report.modules:
        weight, update = before[f"{module.module}.weight"].float(), update_of(two, module.module)
        rounded = after[f"{module.module}.weight"].float()
        assert module.error == pytest.approx(((rounded - weight - update).norm() / update.norm()).item(), rel=1e-3)
        assert module.kept == pytest.approx((((rounded - weight) * update).sum() / (update**2).sum()).item(), abs=1e-4)


@pytest.mark.parametrize("way", ["torch", "numba"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_base_that_holds_no_numbers_is_refused(tmp_path, monkeypatch, way, value):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(save_tiny_base(tmp_path / "base"), dtype=torch.bfloat16)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[3, 5] = value
    model.save_pretrained(tmp_path / "base")
    lora = save_lora(tmp_path / "base", tmp_path / "a")
    monkeypatch.setattr(merging, "WORTH_COMPILING", 0 if way == "numba" else 10**12)
    with pytest.raises(BaseModelError, match=r"q_proj can't be stored as bf16: the sum is not finite"):
        merging.merge(tmp_path / "base", [(lora, 1.0)], tmp_path / "out", "bf16")
    assert not (tmp_path / "out").exists()


def test_torchs_threads_are_as_before():
    threads = torch.get_num_threads()
    with workers() as space:
        assert space.start(1, 1, lambda *_: torch.get_num_threads())[0].result() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert [run.result() for run in space.start(8, 1, lambda *_: torch.get_num_threads(), 1)] == [1] * 8
    assert torch.get_num_threads() == threads
