"""The numbers that a weight in 4 bit can be: sixteen levels, one scale a block, and how choices are packed."""

from dataclasses import dataclass
from typing import Any

import torch

from asu_lora.merging.checkpoint.tensor_reader import LazyTensorReader
from asu_lora.merging.nf4 import quantization as nf4
from asu_lora.merging.nf4.quantization import Quantization


@dataclass
class Grid:
    """A weight (out, in) in 4 bit, taken apart: value = level[choice] * scale.

    The scales stay, so that a weight whose choice stays is bit for bit what it was.

    Attributes:
        choices: (out, in) int64, 0 to 15.
        levels: (16,) fp32, ascending.
        scales: (out, in) fp32: each block's largest absolute value, as bitsandbytes reconstructs it.
        packed, state: what bitsandbytes holds.
    """

    choices: torch.Tensor
    levels: torch.Tensor
    scales: torch.Tensor
    packed: torch.Tensor
    state: Any

    @classmethod
    def of(cls, weight: torch.Tensor, settings: Quantization) -> "Grid":
        """Quantise a weight (out, in) as loading does, rounding to nearest."""
        return cls._apart(*nf4.quantize(nf4.as_loaded(weight, settings), settings))

    @classmethod
    def stored(cls, reader: LazyTensorReader, name: str) -> "Grid":
        """Take apart a tensor that the checkpoint keeps in 4 bit."""
        return cls._apart(*nf4.read_state(reader, name))

    @classmethod
    def _apart(cls, packed: torch.Tensor, state: Any) -> "Grid":
        flat = packed.reshape(-1).view(torch.uint8)
        choices = torch.stack((flat >> 4, flat & 15), dim=1).reshape(-1)[: state.shape.numel()]
        # The level 1 everywhere shows the scales, through all that bitsandbytes does to reconstruct them.
        one = state.code.argmax().item()
        scales = nf4.dequantize(torch.full_like(packed, one * 17), state)
        return cls(choices.reshape(state.shape).long(), state.code.float(), scales, packed, state)

    def values(self, choices: torch.Tensor | None = None) -> torch.Tensor:
        """The fp32 weights (out, in) that choices stand for, by default the weight's own."""
        return self.levels[self.choices if choices is None else choices] * self.scales

    def rows(self, first: int, last: int) -> "Grid":
        """Some rows of it, to choose for; they pack nothing."""
        return Grid(self.choices[first:last], self.levels, self.scales[first:last], self.packed, self.state)

    def pack(self, choices: torch.Tensor) -> torch.Tensor:
        """Choices as bitsandbytes stores them, two to a byte, in the shape it gave."""
        flat = choices.reshape(-1).to(torch.uint8)
        if flat.numel() % 2:  # the last half byte is not a weight
            flat = torch.cat((flat, self.packed.reshape(-1).view(torch.uint8)[-1:] & 15))
        pairs = flat.view(-1, 2)
        return ((pairs[:, 0] << 4) | pairs[:, 1]).view(self.packed.shape)
