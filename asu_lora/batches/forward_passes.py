"""Rows into forward passes, with as little padding as their lengths allow: rows of like length side by side, or, where
a model keeps them apart, rows packed end to end (:mod:`asu_lora.models.packing_trial`)."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

import torch

from asu_lora.batches.packing import Packing, lines_of, padded_length
from asu_lora.data.encoding import Encoded

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


def pass_groups(lengths: Sequence[int], most_tokens: int | None = None, smallest: int = SMALLEST_PASS,
                packing: Packing | None = None) -> list[list[int]]:
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
        mask[row, : len(item)] = 1
    starts = [row * width for row in range(len(items))]
    return _laid_out(items, starts, mask.shape, pad_id) | {"attention_mask": mask}


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


def _laid_out(items: Sequence[Encoded], starts: Sequence[int], shape: torch.Size, pad_id: int
              ) -> dict[str, torch.Tensor]:
    ids, positions = torch.full(shape, pad_id).flatten(), []
    for item, start in zip(items, starts, strict=True):
        ids[start : start + len(item)] = torch.tensor(item.prompt_ids + item.answer_ids)
        # the state at position p predicts the token at p + 1
        first = start + len(item.prompt_ids) - 1
        positions.append(torch.arange(first, first + len(item.answer_ids)))
    return {"input_ids": ids.view(shape), "starts": torch.tensor(starts), "positions": torch.cat(positions)}


def forward_passes(items: Sequence[Encoded], pad_id: int, most_tokens: int | None = None,
                   entries: Sequence[torch.Tensor] | None = None, smallest: int = SMALLEST_PASS,
                   packing: Packing | None = None) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """The forward passes that cover ``items``, each with the indices of its rows.

    Args:
        entries: per row, (tokens, H) what it enters the first layer that runs with, see
            :mod:`asu_lora.models.frozen_layers`; the passes then have ``entry``, (b, L, H), too.
        smallest: see :func:`length_groups`.
        packing: how rows are packed (see :func:`asu_lora.models.packing_trial.packing_of`); None pads them.
    """
    for group in pass_groups([len(item) for item in items], most_tokens, smallest, packing):
        if packing is None:
            batch = pad_group([items[index] for index in group], pad_id)
        else:
            lines, _ = lines_of([len(items[index]) for index in group], packing)
            batch = pack_group([[items[group[at]] for at in line] for line in lines], pad_id)
            group = [group[at] for line in lines for at in line]
        if entries is not None:
            batch["entry"] = place_states([entries[index] for index in group], batch["starts"].tolist(),
                                          batch["input_ids"].shape)
        yield group, batch


def place_states(states: Sequence[torch.Tensor], starts: Sequence[int], shape: torch.Size) -> torch.Tensor:
    """States of rows, (tokens, H) each, where the rows begin in a pass: (b, L, H), zeros where there is padding."""
    placed = states[0].new_zeros(shape.numel(), states[0].shape[1])
    for start, own in zip(starts, states, strict=True):
        placed[start : start + len(own)] = own
    return placed.view(*shape, -1)


def answer_hidden(decoder: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Final hidden states (t, H) at a pass's answer positions.

    Args:
        decoder: the base without its head (``model.get_decoder()``), adapters and all.
        batch: what :func:`pad_group` or :func:`pack_group` gave, on the decoder's device. (An ``entry`` is the
            caller's business.)
    """
    kept_apart = {name: batch[name] for name in ("attention_mask", "position_ids") if name in batch}
    hidden = decoder(input_ids=batch["input_ids"], **kept_apart, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1)[batch["positions"]]
