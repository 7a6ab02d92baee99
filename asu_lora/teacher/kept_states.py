"""What was computed of a frozen base, kept for the next run: a comparison trains many adapters on the same rows, a
queue of requests keeps the same rows beside each."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

from asu_lora.hardware.memory import free_memory

Found = TypeVar("Found")
SHARE = 0.25  # of the memory that is free: what doesn't fit is computed again


class KeptStates:
    """Answers by question, for runs of one process on one base without adapters beneath.

    A key names all that the answer depends on but the base. What is found may be changed by nobody. What was asked for
    longest ago goes first where room is wanted.

    Args:
        retain_alone: keep only what was computed of retain rows: those of a queue come again, its requests don't.
    """

    def __init__(self, retain_alone: bool = False) -> None:
        self.retain_alone = retain_alone
        self._found: dict[Hashable, Any] = {}
        self._held = 0  # bytes

    def once(self, key: Hashable, compute: Callable[[], Found]) -> Found:
        """What is kept by this key; else what ``compute`` gives, kept if there is memory for it."""
        if key in self._found:
            self._found[key] = self._found.pop(key)  # the last that was asked for
            return self._found[key]
        found = compute()
        room = SHARE * (free_memory(torch.device("cpu")) + self._held)
        if (size := size_of(found)) <= room:
            while self._held + size > room:
                self._held -= size_of(self._found.pop(next(iter(self._found))))
            self._found[key], self._held = found, self._held + size
        return found


def size_of(found: Any) -> int:
    """Bytes of the tensors in (nested) lists and tuples; whatever else is counts nothing."""
    if isinstance(found, torch.Tensor):
        return found.numel() * found.element_size()
    return sum(map(size_of, found)) if isinstance(found, list | tuple) else 0
