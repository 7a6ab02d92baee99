"""What was computed of a frozen base, kept for the next run: a comparison trains many adapters on the same rows."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

from asu_lora.hardware.memory import free_memory

Found = TypeVar("Found")
SHARE = 0.25  # of the memory that is free: what is larger is computed again


class KeptStates:
    """Answers by question, for runs of one process on one base without adapters beneath.

    A key names all that the answer depends on but the base. What is found may be changed by nobody.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}

    def once(self, key: Hashable, compute: Callable[[], Found]) -> Found:
        """What is kept by this key; else what ``compute`` gives, kept if there is memory for it."""
        if key in self._found:
            return self._found[key]
        found = compute()
        if size_of(found) <= SHARE * free_memory(torch.device("cpu")):
            self._found[key] = found
        return found


def size_of(found: Any) -> int:
    """Bytes of the tensors in (nested) lists and tuples; whatever else is counts nothing."""
    if isinstance(found, torch.Tensor):
        return found.numel() * found.element_size()
    return sum(map(size_of, found)) if isinstance(found, list | tuple) else 0
