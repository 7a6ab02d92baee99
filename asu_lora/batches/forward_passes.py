"""Rows into forward passes, with as little padding as their lengths allow: rows of like length side by side, or, where
a model keeps them apart, rows packed end to end (:mod:`asu_lora.models.packing_trial`)."""

from collections.abc import Iterator, Sequence

import torch

from asu_lora.batches.packing import Packing, lines_of, pack_group
from asu_lora.batches.padding import SMALLEST_PASS, even_parts, length_groups, pad_group, padded_length
from asu_lora.data.encoding import Encoded


def pass_groups(
    lengths: Sequence[int],
    most_tokens: int | None = None,
    smallest: int = SMALLEST_PASS,
    packing: Packing | None = None,
) -> list[list[int]]:
    """Indices into ``lengths`` by forward pass; every index once. Packed rows are cut only where ``most_tokens``,
    counted as if each row stood alone, asks for it."""
    if packing is None:
        return length_groups(lengths, most_tokens, smallest)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    sizes = [padded_length(lengths[index]) for index in order]
    parts = even_parts(sizes, most_tokens or sum(sizes)) if sizes else []
    return [[order[at] for at in part] for part in parts]


def pass_tokens(lengths: Sequence[int], packing: Packing | None = None) -> int:
    """Tokens of a forward pass of rows of these lengths, padding included."""
    if packing is None:
        return len(lengths) * padded_length(max(lengths))
    lines, width = lines_of(lengths, packing)
    return len(lines) * width


def forward_passes(
    items: Sequence[Encoded],
    pad_id: int,
    most_tokens: int | None = None,
    entries: Sequence[torch.Tensor] | None = None,
    smallest: int = SMALLEST_PASS,
    packing: Packing | None = None,
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """The forward passes that cover ``items``, each with the indices of its rows.

    Args:
        entries: per row, (tokens, H) what it enters the first layer that runs with, see
            :mod:`asu_lora.models.frozen_layers`; the passes then have ``entry``, (b, L, H), too.
        smallest: see :func:`length_groups`.
        packing: how rows are packed (see :func:`asu_lora.models.packing_trial.packing_of`); None pads them, as rows
            with padding of their own always are.
    """
    packing = None if any(item.padding for item in items) else packing
    for group in pass_groups([len(item) for item in items], most_tokens, smallest, packing):
        if packing is None:
            batch = pad_group([items[index] for index in group], pad_id)
        else:
            lines, _ = lines_of([len(items[index]) for index in group], packing)
            batch = pack_group([[items[group[at]] for at in line] for line in lines], pad_id)
            group = [group[at] for line in lines for at in line]
        if entries is not None:
            batch["entry"] = place_states(
                [entries[index] for index in group], batch["starts"].tolist(), batch["input_ids"].shape
            )
        yield group, batch


def place_states(states: Sequence[torch.Tensor], starts: Sequence[int], shape: torch.Size) -> torch.Tensor:
    """States of rows, (tokens, H) each, where the rows begin in a pass: (b, L, H), zeros where there is padding."""
    placed = states[0].new_zeros(shape.numel(), states[0].shape[1])
    for start, own in zip(starts, states, strict=True):
        placed[start : start + len(own)] = own
    return placed.view(*shape, -1)
