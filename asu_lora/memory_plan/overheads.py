"""What a machine adds to the arithmetic: libraries, loading, its allocator; and how much memory is free."""

import os
from dataclasses import dataclass
from pathlib import Path

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


def free_memory(device: torch.device) -> int:
    """Bytes that this process can hold on the device, with what it holds already."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        available = next(int(line.split()[1]) << 10 for line in _lines("/proc/meminfo") if "MemAvailable" in line)
        own = int(next(iter(_lines("/proc/self/statm"))).split()[1]) * page
    except (OSError, StopIteration):  # no Linux: all there is
        return os.sysconf("SC_PHYS_PAGES") * page
    try:  # a container may be allowed less than the machine has
        limit, used = (int(_lines(f"/sys/fs/cgroup/memory.{name}")[0]) for name in ("max", "current"))
        available = min(available, limit - used)
    except (OSError, ValueError, IndexError):  # "max": no limit
        pass
    return available + own


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="ascii").splitlines()
