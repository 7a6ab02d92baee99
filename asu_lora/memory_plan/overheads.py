"""What a machine adds to the arithmetic: libraries, loading, its allocator; and how much memory is free."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Loading:
    """What loading takes beside the weights, bytes: at its peak, and from then on."""

    peak: int
    left: int


@dataclass(frozen=True)
class MachineMemory:
    """Constants of a kind of device.

    Attributes:
        libraries: bytes held before any weight is.
        kept: bytes that the allocator and compiled kernels hold on top once work has begun, however large it is.
        waste: what the allocator holds for each byte of short-lived tensors.
        host_loading: whether what loading needs beside the weights is taken from the same memory.
    """

    libraries: int
    kept: int
    waste: float
    host_loading: bool

    def live(self, count: float) -> int:
        return int(count * self.waste)

    def loading(self, checkpoint: int, unquantised: int, whole: int, shared: bool) -> Loading:
        """What loading takes from the host's memory.

        transformers maps the checkpoint's files into memory, makes 4-bit weights of copies in the compute type, and
        keeps the files mapped as long as a weight (the embeddings, mostly) is still the file's own.

        Args:
            checkpoint: bytes of its files.
            unquantised: bytes, in the compute type, of the weights that are quantised.
            whole: bytes of the weights that are not.
            shared: whether these are of the files' own type.
        """
        if not self.host_loading:
            return Loading(0, 0)
        return Loading(checkpoint + unquantised, max(0, checkpoint - whole) if shared else 0)


def machine_memory(device: torch.device) -> MachineMemory:
    """Measured on Linux with glibc (docs/results/memory_plan.md) and on an H100 (memory_plan_cuda.md)."""
    if device.type == "cpu":
        return MachineMemory(libraries=560 << 20, kept=320 << 20, waste=1.1, host_loading=True)
    return MachineMemory(libraries=920 << 20, kept=0, waste=1.1, host_loading=False)
