"""How rows are laid end to end into the lines of a packed pass, so that few tokens are padding."""

from collections.abc import Sequence
from typing import Literal

WIDTH_STEP = 8
WIDEST = 2  # times the longest row: a mask, and what attention does under it, grows with the width

Packing = Literal["lines", "line"]  # lines of like width side by side, or all rows in one line


def padded_length(length: int) -> int:
    """Tokens of a row in a pass of its own, its padding included.

    Widths come in steps of 8: every new shape costs oneDNN a kernel it then keeps, and tensor cores like it.
    """
    return -(-length // WIDTH_STEP) * WIDTH_STEP


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
    choices = [(lines, width) for width in range(narrowest, WIDEST * narrowest + 1, WIDTH_STEP)
               for lines in [_first_fit(lengths, width)]]
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
