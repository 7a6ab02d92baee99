"""What the losses compare with: states of the frozen base and of the teacher, computed once for all epochs."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch

from asu_lora.data.encoding import Encoded
from asu_lora.losses import TrainingSet
from asu_lora.models.frozen_layers import FrozenLayers
from asu_lora.models.hidden_states import answer_logprobs, hidden_states
from asu_lora.models.loading import LoadedBase
from asu_lora.teacher.kept_states import KeptStates
from asu_lora.teacher.teacher import Teacher
from asu_lora.teacher.teacher_states import teacher_states


def compute_references(
    base: LoadedBase,
    training_set: TrainingSet,
    teacher: Teacher | None = None,
    frozen_layers: FrozenLayers | None = None,
    progress: Callable[[int], None] | None = None,
    kept: KeptStates | None = None,
) -> None:
    """Fill in what the set's loss compares with: a forward pass of the base a row, and one of the teacher.

    References and entries lie on the CPU: a batch takes its own along to the GPU, from pinned memory.

    Args:
        base: with no adapter active (or those that the references are made of).
        teacher: needed where the loss uses one.
        frozen_layers: where the layers begin that training will run; the rows' entries to it are kept too.
        progress: called with the number of rows of each finished pass.
        kept: what earlier runs on this base computed, where that may be taken.
    """
    for view in training_set.loss.needs:
        _compute_view(base, training_set, view, teacher, frozen_layers, progress, kept or KeptStates())


def _compute_view(
    base: LoadedBase,
    training_set: TrainingSet,
    view: str,
    teacher: Teacher | None,
    frozen_layers: FrozenLayers | None,
    progress: Callable[[int], None] | None,
    kept: KeptStates,
) -> None:
    """The same for one view of the rows. A key of ``kept`` names all that the states depend on but the base."""
    rows, wanted = training_set.rows, training_set.loss.needs[view]
    items, found = rows.views[view], rows.references.setdefault(view, {})
    needed = teacher if "teacher" in wanted else None
    fluency = needed.fluency if needed else None
    first, read = frozen_layers and frozen_layers.first, partial(on_cpu, progress=progress)
    plain: list[torch.Tensor] = []  # the base's final states
    entry: FrozenLayers | None = None  # where the teacher begins, and with what
    entries: list[torch.Tensor] | None = None
    if frozen_layers is not None and (fluency or needs_base(wanted)):
        higher = needed.first_smoothed if needed else None
        whole = partial(frozen_layers.compute_whole, items, base.pad_id, higher, progress=progress)
        lower, plain, above = kept.once(("whole", first, higher and higher.first, *items), whole)
        rows.entries[view] = lower
        entry, entries = higher or frozen_layers, above or lower
    elif frozen_layers is not None:
        below = partial(frozen_layers.compute, items, base.pad_id, progress=progress)
        rows.entries[view] = kept.once(("entries", first, *items), below)
        entry, entries = frozen_layers, rows.entries[view]
    elif fluency or needs_base(wanted):
        plain = kept.once(("plain", *items), partial(read, hidden_states, base.model, items, base.pad_id))
    if needed:
        heat = needed.tau, needed.layers
        smoothed = partial(read, teacher_states, base.model, items, base.pad_id, *heat, entry=entry, entries=entries)
        key = (needed.tau, tuple(needed.layers or ()), entry and entry.first)
        found["teacher"] = kept.once(("teacher", *key, *items), smoothed)
    if fluency:
        found["teacher"] = anchored(found["teacher"], plain, fluency.anchors)
    if fluency and "ruled_out" in wanted:
        found["ruled_out"] = fluency.ruled_out
    if "base" in wanted:
        found["base"] = plain
    if "base_logprob" in wanted:
        found["base_logprob"] = _logprobs(base, items, plain)
    if "inner" in wanted:
        at = training_set.loss.layer
        inner = partial(read, hidden_states, base.model, items, base.pad_id, layer=at)
        found["inner"] = kept.once(("inner", at, *items), inner)


def on_cpu(states_of: Callable[..., Iterable[torch.Tensor]], *args: Any, **given: Any) -> list[torch.Tensor]:
    """Each row's states, on the CPU."""
    return [each.cpu() for each in states_of(*args, **given)]


def anchored(
    teacher: Sequence[torch.Tensor], plain: Sequence[torch.Tensor], anchors: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """The teacher's states, with the base's in their place wherever a row is anchored.

    Args:
        teacher, plain: (answer tokens, H) a row.
        anchors: (answer tokens,) a row, whether the target is the plain base.
    """
    return [
        torch.where(kept[:, None], base, states) for states, base, kept in zip(teacher, plain, anchors, strict=True)
    ]


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
