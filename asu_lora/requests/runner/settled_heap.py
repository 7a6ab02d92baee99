"""What is loaded for good is left out of Python's garbage collections.

Trainer collects all garbage at the end of a training. Most of what it then looks at are the libraries and the base,
which stay. On requests of a second that was half of the time (docs/results/requests.md).
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def settled_heap() -> Iterator[None]:
    """Inside, no collection looks at what is there now. A program that froze its heap itself keeps it so."""
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
