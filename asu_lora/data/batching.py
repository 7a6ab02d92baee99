"""Rows into padded forward passes, with as little padding as their lengths allow."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

import torch

from asu_lora.data.encoding import Encoded

WIDTH_STEP = 8
SMALLEST_PASS = 256  # tokens; a smaller forward pass costs more in overhead than its padding would


def length_groups(lengths: Sequence[int], most_tokens: int | None = None,
                  smallest: int = SMALLEST_PASS) -> list[list[int]]:
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


def padded_length(length: int) -> int:
    """Tokens of a row in a pass of its own, its padding included.

    Widths come in steps of 8: every new shape costs oneDNN a kernel it then keeps, and tensor cores like it.
    """
    return -(-length // WIDTH_STEP) * WIDTH_STEP


def pad_group(items: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad rows on the right.

    Returns:
        ``input_ids`` and ``attention_mask``, (b, L), and ``positions``, (t,): where in the flattened (b * L)
        hidden states the answer tokens are predicted, row after row.
    """
    width = padded_length(max(len(item) for item in items))
    ids = torch.full((len(items), width), pad_id)
    mask = torch.zeros((len(items), width), dtype=torch.long)
    positions = []
    for row, item in enumerate(items):
        ids[row, : len(item)] = torch.tensor(item.prompt_ids + item.answer_ids)
        mask[row, : len(item)] = 1
        # the state at position p predicts the token at p + 1
        start = row * width + len(item.prompt_ids) - 1
        positions.append(torch.arange(start, start + len(item.answer_ids)))
    return {"input_ids": ids, "attention_mask": mask, "positions": torch.cat(positions)}


def forward_passes(items: Sequence[Encoded], pad_id: int, most_tokens: int | None = None,
                   entries: Sequence[torch.Tensor] | None = None, smallest: int = SMALLEST_PASS,
                   ) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """The padded forward passes that cover ``items``, each with the indices of its rows.

    Args:
        entries: per row, (tokens, H) what it enters the first layer that runs with (see :mod:`asu_lora.entry`);
            the passes then have ``entry``, (b, L, H), too.
        smallest: see :func:`length_groups`.
    """
    for group in length_groups([len(item) for item in items], most_tokens, smallest):
        batch = pad_group([items[index] for index in group], pad_id)
        if entries is not None:
            batch["entry"] = pad_states([entries[index] for index in group], batch["input_ids"].shape[1])
        yield group, batch


def pad_states(states: Sequence[torch.Tensor], width: int) -> torch.Tensor:
    """States of rows, (tokens, H) each, side by side: (b, width, H), zeros where a row has ended."""
    padded = states[0].new_zeros(len(states), width, states[0].shape[1])
    for row, own in enumerate(states):
        padded[row, : len(own)] = own
    return padded


def answer_hidden(decoder: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Final hidden states (t, H) at a padded pass's answer positions.

    Args:
        decoder: the base without its head (``model.get_decoder()``), adapters and all.
        batch: what :func:`pad_group` gave, on the decoder's device. (An ``entry`` is the caller's business.)
    """
    hidden = decoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                     use_cache=False).last_hidden_state
    return hidden.flatten(0, 1)[batch["positions"]]
