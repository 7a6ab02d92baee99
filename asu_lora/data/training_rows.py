"""Encoded rows of one set, with what training compares them with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from asu_lora.data.encoding import Encoded
from asu_lora.data.examples import Example
from asu_lora.data.token_classes import TokenClass


@dataclass
class TrainingRows:
    """The rows of one set: the forget rows, the retain rows, or the student's own answers.

    Attributes:
        views: encoded rows by view: ``answer``, and ``idk`` where a loss needs it; equally many each.
        references: per view and reference, one tensor a row (see :class:`~asu_lora.losses.answers.Answers`).
        entries: per view, (tokens, H) a row: what it enters the first adapted layer with; empty where every
            layer is run.
        examples: what the rows were encoded from; ``row.example`` is an index into them.
        classes: the class of every answer token, a list a row of the view ``answer``; only where a teacher needs them.
        in_other_words: row -> the rows behind those of the request that ask the same in other words.
        beside: forget row -> the row of this set that stands beside it; for the student's own answers alone.
    """

    views: dict[str, list[Encoded]]
    references: dict[str, dict[str, list[torch.Tensor]]] = field(default_factory=dict)
    entries: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    classes: list[list[TokenClass]] = field(default_factory=list)
    in_other_words: Mapping[int, Sequence[int]] = field(default_factory=dict)
    beside: Mapping[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """The rows that the set has, each in whatever words."""
        held = len(next(iter(self.views.values()))) if self.views else 0
        return held - sum(len(others) for others in self.in_other_words.values())

    @property
    def answers(self) -> list[Encoded]:
        """The rows with their true answers; with what stands in their place where no loss looks at these."""
        return self.views.get("answer") or next(iter(self.views.values()), [])

    @property
    def own_answers(self) -> list[Encoded]:
        """The same of the rows as they are in the request, those in other words left out."""
        return self.answers[: len(self)]

    def cache_bytes(self) -> int:
        """Memory that references and entries take."""
        kept = [*self.entries.values(), *(tensors for view in self.references.values() for tensors in view.values())]
        return sum(t.numel() * t.element_size() for tensors in kept for t in tensors)
