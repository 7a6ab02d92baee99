"""What a machine adds to the arithmetic: libraries, loading, its allocator; and how much memory is free."""

import os
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
        waste: what the allocator holds for each byte of short-lived tensors.
        host_loading: whether what loading needs beside the weights is taken from the same memory.
    """

    libraries: int
    waste: float
    host_loading: bool

    def live(self, count: float) -> int:
        return int(count * self.waste)

    def loading(self, weights: int, checkpoint: int, unquantised: int) -> Loading:
        """transformers maps the checkpoint's files, and 4-bit weights are made of copies in the compute type."""
        if not self.host_loading:
            return Loading(0, 0)
        return Loading(checkpoint + unquantised, checkpoint + unquantised if unquantised else 0)


def machine_memory(device: torch.device) -> MachineMemory:
    if device.type == "cpu":
        return MachineMemory(libraries=560 << 20, waste=1.2, host_loading=True)
    return MachineMemory(libraries=512 << 20, waste=1.1, host_loading=False)


def free_memory(device: torch.device) -> int:
    """Bytes that a new process can have on this device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
