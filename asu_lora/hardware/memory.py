"""How much memory a run took, and whether an error means that there was not enough."""

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

RELEASED_EVERY = 8  # passes
KERNELS = 16  # the shapes of a layer, forward and backward
OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory")  # accelerators, the CPU, and on Windows


def peak_memory(device: torch.device) -> int:
    """The most memory held so far, bytes: the accelerator's allocations, or this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def release_freed_memory() -> None:
    """Hand memory that was freed back to the system; without glibc this does nothing.

    glibc keeps it, in pieces: loading leaves hundreds of megabytes behind that no later allocation fits into, and
    training grows from step to step.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class FreedMemory:
    """Hands freed memory back after every so many passes.

    What was handed back has to be asked for anew: after every pass, that took a sixth of a training's time on a CPU
    (docs/results/whole_job.md). What is kept meanwhile doesn't grow with the number of passes.

    Args:
        every: passes.
    """

    def __init__(self, every: int = RELEASED_EVERY):
        self.every, self.passes = every, 0

    def passed(self) -> None:
        """One pass more was made."""
        self.passes += 1
        if self.passes % self.every == 0:
            release_freed_memory()


def keep_few_kernels() -> None:
    """Have oneDNN, torch's library for the CPU, keep few of the kernels that it compiles for every new shape.

    It keeps 1,024 by default, each with memory to work in, and the passes of a run have ever new shapes: a run took
    0.15 GB more within 12 steps, and was no faster (docs/memory.md). Only where oneDNN hasn't been used yet; a value
    that stands in the environment is left alone.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says so: torch's allocator for the CPU raises a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(said in text for said in OUT_OF_MEMORY)


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
    return min(available, *_container_memory()) + own


def _container_memory(root: str = "/sys/fs/cgroup") -> Iterator[int]:
    """What a container may still take, where it is allowed less than the machine has: of cgroups version 2 or 1.

    Files that were read count as used until something else needs the room, a base's weights among them: they are free.
    """
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError, IndexError):  # "max": no limit
            left = int(_lines(f"{root}/{limit}")[0]) - int(_lines(f"{root}/{used}")[0])
            stat = dict(line.split() for line in _lines(f"{root}/{Path(used).parent}/memory.stat"))
            yield left + int(stat.get(cached, 0))


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="ascii").splitlines()
