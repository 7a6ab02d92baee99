"""The forget-teacher's hidden states: the frozen base with its attention softmax heated (ASU, arXiv 2603.01285).

Nothing is copied: the model in memory is the teacher for the length of one pass.
"""

from collections.abc import Callable, Iterable, Sequence

import torch

from asu_lora.data.encoding import Encoded
from asu_lora.models.frozen_layers import FrozenLayers
from asu_lora.models.hidden_states import hidden_states
from asu_lora.teacher.smoothing import attention_smoothing


def teacher_states(
    model: torch.nn.Module,
    items: Sequence[Encoded],
    pad_id: int,
    tau: float,
    layers: Iterable[int] | None = None,
    *,
    progress: Callable[[int], None] | None = None,
    entry: FrozenLayers | None = None,
    entries: Sequence[torch.Tensor] | None = None,
) -> list[torch.Tensor]:
    """Final hidden states of the smoothed base at the answer positions of every row.

    Args:
        model: the frozen base, adapters off.
        tau: temperature of the attention softmax; 1 is the base itself.
        layers: which decoder layers are smoothed, all by default.
        entry, entries: as :func:`~asu_lora.models.hidden_states.hidden_states` takes them. Ignored where a layer
            below is smoothed.

    Returns:
        One (answer tokens, H) tensor a row, in the model's type, on its device.
    """
    if tau == 1.0:
        return hidden_states(model, items, pad_id, progress=progress, entry=entry, entries=entries)
    layers = None if layers is None else list(layers)
    if entry is not None and (layers is None or min(layers, default=0) < entry.first):
        entry = entries = None
    # the trial of a model's first smoothing needs its real layers: it comes before the stand-ins
    with attention_smoothing(model, tau, layers):
        return hidden_states(model, items, pad_id, progress=progress, entry=entry, entries=entries)
