"""Weights as GGUF's 4-bit formats hold them, by llama.cpp's reference quantisation (ggml-quants.c), without a file.

Q4_0: 32 weights of a row share a 16-bit scale. Q4_K: 256 weights of a row are eight blocks, each with a scale and a
minimum in 6 bits, which two 16-bit numbers scale. A row whose width 256 doesn't divide can't be Q4_K: llama.cpp writes
it as Q5_0 then, and so do we (576 of SmolLM2-135M is one).
"""

from dataclasses import dataclass

import torch

BLOCK = 32  # weights that share a scale
SUPER = 256  # weights of a super-block of Q4_K
CODES = 15  # the largest code of 4 bits
SIXTH = 63  # the largest of 6 bits
STEPS = 21  # scales that are tried of each block, from 14/15 to 16/15 of the plain one
AT_ONCE = 4096  # super-blocks, so that the trials stay in the cache


def to_q4_0(weight: torch.Tensor) -> torch.Tensor:
    """(rows, width) in fp32, as Q4_0 gives it back."""
    return _symmetric(weight, 8)


def to_q5_0(weight: torch.Tensor) -> torch.Tensor:
    """(rows, width) in fp32, as Q5_0 gives it back."""
    return _symmetric(weight, 16)


def to_q4_k(weight: torch.Tensor) -> torch.Tensor:
    """(rows, width) in fp32, as Q4_K gives it back; as Q5_0 does where 256 doesn't divide the width."""
    if weight.shape[1] % SUPER:
        return to_q5_0(weight)
    supers = weight.float().reshape(-1, SUPER // BLOCK, BLOCK)
    return torch.cat([q4_k(part).values() for part in supers.split(AT_ONCE)]).view(weight.shape)


def _symmetric(weight: torch.Tensor, half: int) -> torch.Tensor:
    """Blocks of 32 around zero: the scale is the largest entry over ``-half``, codes go from 0 to ``2 half - 1``."""
    rows, width = weight.shape
    padded = torch.nn.functional.pad(weight.float(), (0, -width % BLOCK)).view(rows, -1, BLOCK)
    scale = padded.gather(2, padded.abs().argmax(2, keepdim=True)) / -half
    inverse = torch.where(scale == 0, 0.0, 1 / scale)  # of the scale in full: 16 bits come when it is written
    codes = (padded * inverse + (half + 0.5)).floor().clamp(0, 2 * half - 1)
    return ((codes - half) * scale.to(torch.float16).float()).reshape(rows, -1)[:, :width]


@dataclass(frozen=True)
class Q4K:
    """Super-blocks as a file holds them.

    Attributes:
        codes: (n, 8, 32), 0 to 15.
        scales, mins: (n, 8), 0 to 63.
        scale, least: (n,) in fp16: of the scales, and of the mins.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    mins: torch.Tensor
    scale: torch.Tensor
    least: torch.Tensor

    def steps(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What a code counts, and what is taken off, (n, 8, 1) each."""
        steps = self.scale.float()[:, None] * self.scales
        return steps[..., None], (self.least.float()[:, None] * self.mins)[..., None]

    def values(self) -> torch.Tensor:
        """(n, 8, 32) weights."""
        step, taken_off = self.steps()
        return step * self.codes - taken_off


def q4_k(weights: torch.Tensor) -> Q4K:
    """Quantise super-blocks (n, 8, 32)."""
    scales, mins = _best_scales(weights)
    most, lowest = scales.amax(1), mins.amax(1)
    sixths, lows = (
        (each * torch.where(top > 0, SIXTH / top, 0.0)[:, None]).round().clamp(0, SIXTH)
        for each, top in ((scales, most), (mins, lowest))
    )
    written = Q4K(weights, sixths, lows, (most / SIXTH).to(torch.float16), (lowest / SIXTH).to(torch.float16))
    step, taken_off = written.steps()
    codes = ((weights + taken_off) / torch.where(step == 0, 1.0, step)).round().clamp(0, CODES)
    return Q4K(torch.where(step == 0, 0.0, codes), written.scales, written.mins, written.scale, written.least)


def _best_scales(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and minimum (n, 8) of each block with the least weighted squared error; large weights count more.

    Every trial rounds with another scale and then fits scale and minimum to the codes by least squares.
    """
    w = x.square().mean(-1, keepdim=True).sqrt() + x.abs()
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True)
    span = torch.where(high == low, 1.0, high - low)
    scale, least = span / CODES, low
    codes = ((x - low) * (CODES / span)).round().clamp(0, CODES)
    best = _error(x, w, codes, scale, least)
    sum_w, sum_x = w.sum(-1, keepdim=True), (w * x).sum(-1, keepdim=True)
    for step in range(STEPS):
        codes = ((x - low) * ((CODES - 1 + 0.1 * step) / span)).round().clamp(0, CODES)
        wl = w * codes
        sum_l, sum_l2, sum_xl = (each.sum(-1, keepdim=True) for each in (wl, wl * codes, wl * x))
        determinant = sum_w * sum_l2 - sum_l.square()
        safe = torch.where(determinant > 0, determinant, 1.0)
        fitted, offset = (sum_w * sum_xl - sum_x * sum_l) / safe, (sum_l2 * sum_x - sum_l * sum_xl) / safe
        above = offset > 0  # a minimum above zero can't be written
        fitted = torch.where(above, sum_xl / sum_l2.clamp(min=1e-30), fitted)
        offset = offset.clamp(max=0)
        error = _error(x, w, codes, fitted, offset)
        better = (determinant > 0) & (error < best)
        scale, least, best = (
            torch.where(better, new, old) for new, old in ((fitted, scale), (offset, least), (error, best))
        )
    scale = torch.where(high == low, 0.0, scale)
    return scale[..., 0], -least[..., 0]


def _error(
    x: torch.Tensor, w: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, low: torch.Tensor
) -> torch.Tensor:
    return (w * (scale * codes + low - x).square()).sum(-1, keepdim=True)
