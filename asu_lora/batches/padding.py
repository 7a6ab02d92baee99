"""Rows of like length side by side in one pass, padded on the right."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import torch

from asu_lora.data.encoding import Encoded
from asu_lora.data.row_format import WIDTH_STEP

SMALLEST_PASS = 256  # tokens; a smaller forward pass costs more in overhead than its padding would


def length_groups(
    lengths: Sequence[int], most_tokens: int | None = None, smallest: int = SMALLEST_PASS
) -> list[list[int]]:
    """Group rows so that rows of like length share a forward pass.

    Rows are taken from the longest down. A row joins the open group unless the padding this adds would
    exceed a tenth of the group, which must then hold at least ``smallest`` tokens, or the group would pass
    ``most_tokens``.

    Args:
        lengths: tokens of each row.
        most_tokens: the most padded tokens a group may hold (a longer single row stands alone).

    Returns:
        Groups of indices into ``lengths``; every index once.
    """
    groups: list[list[int]] = []
    padding = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[groups[-1][0]] if groups else 0
        size = longest * len(groups[-1]) if groups else 0
        extra = longest - lengths[index]
        wasteful = groups and padding + extra > 0.1 * size and size >= smallest
        full = groups and most_tokens is not None and size + longest > most_tokens
        if not groups or wasteful or full:
            groups.append([index])
            padding = 0
        else:
            groups[-1].append(index)
            padding += extra
    return groups


def even_parts(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Cut rows, taken in their order, into as few parts as possible of at most ``most`` tokens, and these as even as
    they can be. A row of more tokens stands alone.

    Args:
        sizes: tokens of each row.

    Returns:
        Parts of indices into ``sizes``; every index once.
    """

    def filled(room: int) -> list[list[int]]:
        parts: list[list[int]] = []
        for index, size in enumerate(sizes):
            if parts and sum(sizes[i] for i in parts[-1]) + size <= room:
                parts[-1].append(index)
            else:
                parts.append([index])
        return parts

    fewest = len(filled(most))
    return filled(1 + bisect_left(range(1, most), True, key=lambda room: len(filled(room)) <= fewest))


def pad_group(items: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad rows on the right.

    Returns:
        ``input_ids`` and ``attention_mask``, (b, L); ``starts``, (b,): where in the flattened (b * L) tokens each row
        begins; and ``positions``, (t,): where in the flattened hidden states the answer tokens are predicted, row
        after row.
    """
    width = padded_length(max(len(item) for item in items))
    mask = torch.zeros((len(items), width), dtype=torch.long)
    for row, item in enumerate(items):
        mask[row, : len(item) - item.padding] = 1
    starts = [row * width for row in range(len(items))]
    return _laid_out(items, starts, mask.shape, pad_id) | {"attention_mask": mask}


def _laid_out(
    items: Sequence[Encoded], starts: Sequence[int], shape: torch.Size, pad_id: int
) -> dict[str, torch.Tensor]:
    ids, positions = torch.full(shape, pad_id).flatten(), []
    for item, start in zip(items, starts, strict=True):
        ids[start : start + len(item)] = torch.tensor(item.prompt_ids + item.answer_ids)
        # the state at position p predicts the token at p + 1
        first = start + len(item.prompt_ids) - 1
        positions.append(torch.arange(first, first + len(item.answer_ids)))
    return {"input_ids": ids.view(shape), "starts": torch.tensor(starts), "positions": torch.cat(positions)}


def every_position(items: Sequence[Encoded], pad_id: int) -> list[Encoded]:
    """The rows, padded to the longest of them, as if each position were one of the answer.

    The states at the answer positions of such a row are those of all its positions, prompt and padding too. The one
    token more at its end is read by nobody: it stands where the last position's next token would.
    """
    width = max(map(len, items), default=0)
    rows = []
    for item in items:
        ids, padding = item.prompt_ids + item.answer_ids, width - len(item) + 1
        rows.append(replace(item, prompt_ids=ids[:1], answer_ids=ids[1:] + (pad_id,) * padding, padding=padding))
    return rows


def padded_length(length: int) -> int:
    """Tokens of a row in a pass of its own, its padding included.

    Widths come in steps of 8: every new shape costs oneDNN a kernel it then keeps, and tensor cores like it.
    """
    return -(-length // WIDTH_STEP) * WIDTH_STEP
