"""How rows are laid end to end into the lines of a packed pass, so that few tokens are padding."""

from collections.abc import Sequence
from typing import Literal

import torch

from asu_lora.batches.padding import _laid_out, padded_length
from asu_lora.data.encoding import Encoded
from asu_lora.data.row_format import WIDTH_STEP

WIDEST = 2  # times the longest row: a mask, and what attention does under it, grows with the width

Packing = Literal["lines", "line"]  # lines of like width side by side, or all rows in one line


def lines_of(lengths: Sequence[int], packing: Packing = "lines") -> tuple[list[list[int]], int]:
    """Lay rows end to end into lines of one width: of those up to twice the longest row the one that leaves the fewest
    tokens, padding included; of equals the narrowest.

    Args:
        lengths: tokens of each row; one row or more.
        packing: ``line`` for all rows in one.

    Returns:
        Lines of indices into ``lengths``, every index once, and their width.
    """
    if packing == "line":
        return [list(range(len(lengths)))], padded_length(sum(lengths))
    narrowest = padded_length(max(lengths))
    choices = [
        (lines, width)
        for width in range(narrowest, WIDEST * narrowest + 1, WIDTH_STEP)
        for lines in [_first_fit(lengths, width)]
    ]
    return min(choices, key=lambda choice: len(choice[0]) * choice[1])


def _first_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """From the longest row down, each into the first line that has room."""
    lines: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = next((line for line, free in enumerate(room) if free >= lengths[index]), len(lines))
        if at == len(lines):
            lines.append([])
            room.append(width)
        lines[at].append(index)
        room[at] -= lengths[index]
    return lines


def pack_group(lines: Sequence[Sequence[Encoded]], pad_id: int) -> dict[str, torch.Tensor]:
    """Lay the rows of each line end to end.

    Returns:
        As :func:`pad_group`, for the rows of the first line, those of the second, and so on; but instead of the mask
        ``position_ids``, (b, L), that begin at 0 with every row, and once more with the padding at a line's end:
        transformers keeps apart what they number anew.
    """
    width = padded_length(max(sum(map(len, line)) for line in lines))
    places = torch.zeros((len(lines), width), dtype=torch.long)
    starts = []
    for number, line in enumerate(lines):
        at = 0
        for length in [*map(len, line), width - sum(map(len, line))]:
            places[number, at : at + length] = torch.arange(length)
            starts.append(number * width + at)
            at += length
        starts.pop()  # the padding's
    return _laid_out([item for line in lines for item in line], starts, places.shape, pad_id) | {"position_ids": places}
