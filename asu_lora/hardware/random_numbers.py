"""The caller's random numbers: a seeded run leaves them as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Inside, Python's, numpy's and torch's generators may be seeded; afterwards they go on where they were.

    Else a loop that draws a request and trains on it would draw the same one every time.
    """
    python, arrays = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # asking would take its memory
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
