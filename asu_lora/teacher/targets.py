"""What the losses compare with: states of the frozen base and of the teacher, computed once for all epochs."""

from collections.abc import Callable, Sequence

import torch

from asu_lora.data.encoding import Encoded
from asu_lora.losses import TrainingSet
from asu_lora.models.frozen_layers import FrozenLayers
from asu_lora.models.hidden_states import answer_logprobs, hidden_states
from asu_lora.models.loading import LoadedBase
from asu_lora.teacher.teacher import Teacher
from asu_lora.teacher.teacher_states import teacher_states


def compute_references(
    base: LoadedBase,
    training_set: TrainingSet,
    teacher: Teacher | None = None,
    frozen_layers: FrozenLayers | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Fill in what the set's loss compares with: a forward pass of the base a row, and one of the teacher.

    References and entries lie on the CPU: a batch takes its own along to the GPU, from pinned memory.

    Args:
        base: with no adapter active (or those that the references are made of).
        teacher: needed where the loss uses one.
        frozen_layers: where the layers begin that training will run; the rows' entries to it are kept too.
        progress: called with the number of rows of each finished pass.
    """
    rows = training_set.rows
    for view, wanted in training_set.loss.needs.items():
        items, found = rows.views[view], rows.references.setdefault(view, {})
        needed = teacher if "teacher" in wanted else None
        fluency = needed.fluency if needed else None
        plain: list[torch.Tensor] = []  # the base's final states
        entry: FrozenLayers | None = None  # where the teacher begins, and with what
        entries: list[torch.Tensor] | None = None
        if frozen_layers is not None and (fluency or needs_base(wanted)):
            higher = needed.first_smoothed if needed else None
            kept, plain, above = frozen_layers.compute_whole(items, base.pad_id, higher, progress=progress)
            rows.entries[view] = kept
            entry, entries = higher or frozen_layers, above or kept
        elif frozen_layers is not None:
            rows.entries[view] = frozen_layers.compute(items, base.pad_id, progress=progress)
            entry, entries = frozen_layers, rows.entries[view]
        elif fluency or needs_base(wanted):
            plain = [states.cpu() for states in hidden_states(base.model, items, base.pad_id, progress=progress)]
        if needed:
            smoothed = teacher_states(
                base.model,
                items,
                base.pad_id,
                needed.tau,
                needed.layers,
                progress=progress,
                entry=entry,
                entries=entries,
            )
            found["teacher"] = [states.cpu() for states in smoothed]
        if fluency:
            anchor(found["teacher"], plain, fluency.anchors)
        if fluency and "ruled_out" in wanted:
            found["ruled_out"] = fluency.ruled_out
        if "base" in wanted:
            found["base"] = plain
        if "base_logprob" in wanted:
            found["base_logprob"] = _logprobs(base, items, plain)
        if "inner" in wanted:
            at = training_set.loss.layer
            inner = hidden_states(base.model, items, base.pad_id, progress=progress, layer=at)
            found["inner"] = [states.cpu() for states in inner]


def anchor(teacher: Sequence[torch.Tensor], plain: Sequence[torch.Tensor], anchors: Sequence[torch.Tensor]) -> None:
    """Put the base's states in the teacher's place wherever a row is anchored.

    Args:
        teacher, plain: (answer tokens, H) a row; the teacher's are changed.
        anchors: (answer tokens,) a row, whether the target is the plain base.
    """
    for states, base, kept in zip(teacher, plain, anchors, strict=True):
        states[kept] = base[kept]


def needs_base(wanted: Sequence[str]) -> bool:
    """Whether the plain base is among the references."""
    return "base" in wanted or "base_logprob" in wanted


def passes_needed(training_set: TrainingSet, teacher: Teacher | None, frozen_layers: FrozenLayers | None = None) -> int:
    """How many rows :func:`compute_references` will run, for a progress bar."""
    anchored = teacher is not None and teacher.fluency is not None
    return sum(
        len(training_set.rows.views[view])
        * (
            ("teacher" in wanted)
            + ("inner" in wanted)
            + (frozen_layers is not None or needs_base(wanted) or ("teacher" in wanted and anchored))
        )
        for view, wanted in training_set.loss.needs.items()
    )


def _logprobs(base: LoadedBase, items: Sequence[Encoded], states: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    on_device = (each.to(base.device) for each in states)
    return [values.cpu() for values in answer_logprobs(base.head, items, on_device)]
