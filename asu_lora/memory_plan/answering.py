"""What writing the longest answers holds: keys and values, activations, logits."""

import torch

from asu_lora.memory_plan.meta_simulation import kernels
from asu_lora.memory_plan.planned_run import PlannedRun, live_bytes
from asu_lora.models.generation import answer_rooms, batches


@torch.no_grad()
def answering_parts(run: PlannedRun, quantised: dict[int, torch.Tensor]) -> tuple[int, int, int]:
    """Bytes of keys and values at the end of the longest answers, of activations, of logits."""
    rows, width, room = _fullest(run)
    ids = torch.empty(rows, width, dtype=torch.long, device="meta")
    live = live_bytes(run)
    with kernels(quantised), live:
        out = run.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, logits_to_keep=1)
        held = live.live["others"]
        grown = held * (width + room) // width
        del out
    return grown, live.peak[0] - held, rows * live.vocabulary * (run.compute.itemsize + 8)


def _fullest(run: PlannedRun) -> tuple[int, int, int]:
    """Rows, longest prompt and longest answer of the batch of answers with the most tokens to hold, over all sets."""
    lengths, rooms = list[int](), list[int]()
    for items in run.evaluated:
        lengths += (len(item.prompt_ids) for item in items)
        rooms += answer_rooms(items, [item.prompt_ids for item in items])
    most = dict(sorted(zip(lengths, rooms, strict=True)))
    found = batches(run.model, lengths, most.__getitem__)
    shapes = [(len(rows), lengths[rows[0]], max(rooms[row] for row in rows)) for rows in found]
    return max(shapes, key=lambda s: s[0] * (s[1] + s[2]), default=(1, 1, 1))
