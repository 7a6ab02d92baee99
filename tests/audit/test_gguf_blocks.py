"""GGUF's 4-bit formats without a file: what the package gguf reads from one is, to the bit, what an audit attacks."""

import numpy as np
import pytest
import torch

from asu_lora.audit.attacks.precision import FULL, STANDARD
from asu_lora.audit.gguf_blocks import BLOCK, Q4K, SUPER, q4_k, to_q4_0, to_q4_k, to_q5_0

quants = pytest.importorskip("gguf.quants")


def drawn(rows=24, width=512, seed=0):
    """Weights with outliers, an empty super-block, constant blocks and blocks on one side of zero."""
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 0.05
    weight[:, 7] *= 20
    weight[0], weight[1, :64] = 0.0, 0.25
    weight[2, :64], weight[3, :256], weight[4, :32] = weight[2, :64].abs() + 0.1, -weight[3, :256].abs(), -0.3
    return weight


@pytest.mark.parametrize(("ours", "theirs"), [(to_q4_0, quants.Q4_0), (to_q5_0, quants.Q5_0)])
def test_blocks_around_zero_are_those_of_a_file(ours, theirs):
    weight = drawn()
    file = theirs.dequantize(theirs.quantize(weight.numpy()))
    assert np.array_equal(ours(weight).numpy(), file)


def packed(blocks: Q4K) -> np.ndarray:
    """(n, 144) bytes: two fp16, twelve bytes of 6-bit scales and mins, 128 bytes of codes."""
    scales, mins = (each.numpy().astype(np.uint8) for each in (blocks.scales, blocks.mins))
    low = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    high = mins[:, :4] | (mins[:, 4:] >> 4) << 6
    rest = (scales[:, 4:] & 15) | (mins[:, 4:] & 15) << 4
    pairs = blocks.codes.numpy().astype(np.uint8).reshape(-1, 4, 2, 32)
    codes = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    heads = [each.numpy().view(np.uint8).reshape(-1, 2) for each in (blocks.scale, blocks.least)]
    return np.concatenate([*heads, low, high, rest, codes], axis=1)


def test_super_blocks_are_what_a_file_gives_back():
    weight = drawn()
    blocks = q4_k(weight.reshape(-1, SUPER // BLOCK, BLOCK))
    for each, top in ((blocks.codes, 15), (blocks.scales, 63), (blocks.mins, 63)):
        assert each.amin() >= 0 and each.amax() == top and torch.equal(each, each.round())
    file = quants.Q4_K.dequantize(packed(blocks).reshape(-1)).reshape(weight.shape)
    assert np.array_equal(to_q4_k(weight).numpy(), file)
    assert torch.equal(to_q4_k(weight)[0], torch.zeros(512))


def test_scales_are_those_of_the_reference_search():
    weight = drawn(seed=3).reshape(-1, SUPER // BLOCK, BLOCK)[:24]
    blocks = q4_k(weight)
    for at, block in enumerate(weight.numpy()):
        scales, mins = map(np.array, zip(*(reference(each) for each in block), strict=True))
        for ours, theirs in ((blocks.scales[at], scales), (blocks.mins[at], mins)):
            wanted = np.rint(theirs * 63 / theirs.max()) if theirs.max() > 0 else np.zeros(8)
            assert np.abs(ours.numpy() - wanted).max() <= 1  # sums in another order
        assert float(blocks.scale[at]) == pytest.approx(scales.max() / 63, rel=2e-3)


def reference(x):
    """make_qkx2_quants of ggml-quants.c, one block at a time, in the plain order of its loops."""
    weights = np.sqrt(np.mean(x * x)) + np.abs(x)
    low, high = min(float(x.min()), 0.0), float(x.max())
    if high == low:
        return 0.0, -low
    tried = [(15 / (high - low), True)] + [((14 + 0.1 * step) / (high - low), False) for step in range(21)]
    best = None
    for inverse, plain in tried:
        codes = np.clip(np.rint(inverse * (x - low)), 0, 15)
        scale, least = (high - low) / 15, low
        if not plain:
            l1, l2, xl = (weights * codes).sum(), (weights * codes * codes).sum(), (weights * codes * x).sum()
            determinant = weights.sum() * l2 - l1 * l1
            if determinant <= 0:
                continue
            scale = (weights.sum() * xl - (weights * x).sum() * l1) / determinant
            least = (l2 * (weights * x).sum() - l1 * xl) / determinant
            if least > 0:
                scale, least = xl / l2, 0.0
        error = (weights * (scale * codes + least - x) ** 2).sum()
        if best is None or error < best[0]:
            best = (error, scale, -least)
    return best[1:]


def test_a_width_that_256_does_not_divide_is_written_as_llama_cpp_writes_it():
    weight = drawn(width=576)
    assert torch.equal(to_q4_k(weight), to_q5_0(weight))
    assert to_q4_k(drawn(width=40)).shape == (24, 40)


def test_it_is_nearer_than_q4_0_and_every_depth_but_the_quick_one_tries_it():
    weight = torch.randn(16, 1024, generator=torch.Generator().manual_seed(1))
    errors = [(to(weight) - weight).square().mean() for to in (to_q4_k, to_q4_0)]
    assert errors[0] < 0.9 * errors[1]
    assert "q4_k_merged" in [way.name for way in STANDARD]
    assert {"q4_k_merged", "q4_k_beside", "q4_0_merged"} <= {way.name for way in FULL}
