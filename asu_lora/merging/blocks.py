"""Rows of a tensor added to, rounded, measured and written, on several threads.

A checkpoint of many gigabytes is bound by memory traffic. So the work is cut into runs of rows small enough
for the processor's cache; each thread takes a run from the file to the file with buffers of its own, and
torch itself uses one thread in each.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import torch

BLOCK = 1 << 19  # elements of a run: 2 MiB in fp32
MAX_THREADS = 8  # more only wait for the memory


class Workers:
    """Threads that work through runs of rows.

    ``buffer`` gives the calling thread memory it may use until it asks for the same again.
    """

    def __init__(self, pool: ThreadPoolExecutor):
        self._pool = pool
        self._own = threading.local()

    def each_run(self, rows: int, row_elements: int, work: Callable[[int, int], tuple]) -> Iterator[tuple]:
        """Call ``work(first row, last row + 1)`` for all runs, and yield the results in order."""
        step = max(1, BLOCK // max(1, row_elements))
        if rows <= step:
            yield work(0, rows)
            return
        edges = [*range(0, rows, step), rows]
        futures = [self._pool.submit(work, first, last) for first, last in pairwise(edges)]
        try:
            for future in futures:
                yield future.result()
        finally:
            for future in futures:
                future.cancel()

    def buffer(self, use: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        size = dtype.itemsize
        for length in shape:
            size *= length
        held = getattr(self._own, use, None)
        if held is None or held.numel() < size:
            held = torch.empty(size, dtype=torch.uint8)
            setattr(self._own, use, held)
        return held[:size].view(dtype).view(shape)


@contextmanager
def workers() -> Iterator[Workers]:
    """As many threads as torch would use (``OMP_NUM_THREADS``), eight at most."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(min(threads, MAX_THREADS), "merge", torch.set_num_threads, (1,))
    try:
        yield Workers(pool)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the threads above changed the default for threads to come


def add_and_round(block: torch.Tensor, left: torch.Tensor, right: torch.Tensor, target: torch.dtype,
                  space: Workers) -> tuple[torch.Tensor, tuple[float, float, float]]:
    """R(W + D) for a run of rows, with the sums that :class:`~asu_lora.merging.rounding.ModuleRounding`
    gathers.

    Args:
        block: W, (rows, columns), in the type it is stored in.
        left, right: D = left @ right, (rows, r) and (r, columns), fp32.
        target: the type R rounds to.

    Returns:
        the rounded sum in a buffer of ``space``, and (||D||^2, ||R(W+D) - (W+D)||^2, <R(W+D) - R(W), D>).
    """
    shape = tuple(block.shape)
    delta = torch.mm(left, right, out=space.buffer("delta", shape))
    exact = space.buffer("exact", shape).copy_(block)
    flat = delta.view(-1)
    # <R(W + D) - R(W), D> = <R(W + D) - (W + D), D> + <D, D> - <R(W) - W, D>, the last 0 where R(W) is W.
    base_off = 0.0
    if block.dtype != target and target != torch.float32:
        off = space.buffer("off", shape).copy_(block.to(target)).sub_(exact)
        base_off = torch.dot(off.view(-1), flat).item()
    exact.add_(delta)
    rounded = space.buffer("rounded", shape, target).copy_(exact)
    off = space.buffer("off", shape).copy_(rounded).sub_(exact).view(-1)
    update = torch.dot(flat, flat).item()
    return rounded, (update, torch.dot(off, off).item(), torch.dot(off, flat).item() + update - base_off)
