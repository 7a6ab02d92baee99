"""Encoded rows of one set, with what training compares them with."""

from dataclasses import dataclass, field

import torch

from asu_lora.data.encoding import Encoded


@dataclass
class TrainingRows:
    """One half of a run's data: the forget rows or the retain rows.

    Attributes:
        views: encoded rows by view: ``answer``, and ``idk`` where an objective needs it; equally many each.
        references: per view and reference, one tensor a row (see :class:`~asu_lora.losses.answers.Answers`).
        entries: per view, (tokens, H) a row: what it enters the first adapted layer with; empty where every
            layer is run.
    """

    views: dict[str, list[Encoded]]
    references: dict[str, dict[str, list[torch.Tensor]]] = field(default_factory=dict)
    entries: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.views.values()))) if self.views else 0

    def cache_bytes(self) -> int:
        """Memory that references and entries take."""
        kept = [*self.entries.values(), *(tensors for view in self.references.values() for tensors in view.values())]
        return sum(t.numel() * t.element_size() for tensors in kept for t in tensors)
