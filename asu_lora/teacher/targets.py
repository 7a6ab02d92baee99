"""The rows of a run: encoded once, with the references that the objectives compare with."""

from collections.abc import Callable, Sequence

import torch

from asu_lora.data.training_rows import TrainingRows
from asu_lora.losses import Loss
from asu_lora.models.frozen_layers import FrozenLayers
from asu_lora.models.hidden_states import answer_logprobs, hidden_states
from asu_lora.models.output_head import FrozenHead
from asu_lora.teacher.fluency import FluencyMasks
from asu_lora.teacher.teacher_states import teacher_states


def compute_references(
    rows: TrainingRows,
    objective: Loss,
    model: torch.nn.Module,
    head: FrozenHead,
    pad_id: int,
    tau: float | None = None,
    layers: Sequence[int] | None = None,
    speaking: FluencyMasks | None = None,
    progress: Callable[[int], None] | None = None,
    entry: FrozenLayers | None = None,
    teacher_entry: FrozenLayers | None = None,
) -> None:
    """Fill in what the objective compares with: a forward pass of the base a row, and one of the teacher.

    References and entries lie on the CPU: a batch takes its own along to the GPU, from pinned memory.

    Args:
        model: the frozen base, no adapter active.
        tau, layers: the teacher's temperature and smoothed layers.
        speaking: where the teacher gives way to the plain base, and what it must not say.
        entry: where the layers begin that training will run; the rows' entries to it are kept too.
        teacher_entry: above that, where the layers begin that the teacher smooths: up to there it is the plain base.
    """
    for view, wanted in objective.needs.items():
        items, found = rows.views[view], rows.references.setdefault(view, {})
        anchored = "teacher" in wanted and speaking is not None
        base: list[torch.Tensor] = []
        start = {}
        if entry is not None and (anchored or needs_base(wanted)):
            higher = teacher_entry if "teacher" in wanted else None
            rows.entries[view], base, above = entry.compute_whole(items, pad_id, higher, progress=progress)
            start = {"entry": higher or entry, "entries": above or rows.entries[view]}
        elif entry is not None:
            rows.entries[view] = entry.compute(items, pad_id, progress=progress)
            start = {"entry": entry, "entries": rows.entries[view]}
        elif anchored or needs_base(wanted):
            base = [states.cpu() for states in hidden_states(model, items, pad_id, progress=progress)]
        if "teacher" in wanted:
            teacher = teacher_states(model, items, pad_id, tau, layers, progress=progress, **start)
            found["teacher"] = [states.cpu() for states in teacher]
            for states, plain, kept in zip(found["teacher"], base, speaking.anchors, strict=True) if anchored else ():
                states[kept] = plain[kept]
        if "ruled_out" in wanted:
            found["ruled_out"] = speaking.ruled_out
        if "base" in wanted:
            found["base"] = base
        if "base_logprob" in wanted:
            on_device = (states.to(model.device) for states in base)
            found["base_logprob"] = [values.cpu() for values in answer_logprobs(head, items, on_device)]


def needs_base(wanted: Sequence[str]) -> bool:
    """Whether the plain base is among the references."""
    return "base" in wanted or "base_logprob" in wanted


def passes_needed(
    rows: TrainingRows, objective: Loss, entry: FrozenLayers | None = None, anchored: bool = False
) -> int:
    """How many rows :func:`compute_references` will run, for a progress bar."""
    return sum(
        len(rows.views[view])
        * (("teacher" in wanted) + (entry is not None or needs_base(wanted) or ("teacher" in wanted and anchored)))
        for view, wanted in objective.needs.items()
    )
