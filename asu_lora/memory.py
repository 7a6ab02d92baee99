"""How much memory a run took."""

import resource
import sys

import torch


def peak_memory(device: torch.device) -> int:
    """The most memory held so far, bytes: the accelerator's allocations, or this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
