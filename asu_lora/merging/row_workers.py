"""Rows of a tensor added to, rounded, measured and written, on several threads.

A checkpoint of many gigabytes is bound by memory traffic. So the work is cut into runs of rows; each thread takes a
run from the file to the file with buffers of its own, and torch itself uses one thread in each.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import TypeVar

import torch

BLOCK = 1 << 20  # elements of a run: 2 MiB in 16 bits; with smaller ones the threads wait for Python's lock
COMPILED_BLOCK = 1 << 21  # of one that takes the lock once
MAX_THREADS = 8  # more only wait for the memory

T = TypeVar("T")


class Workers:
    """Threads that work through runs of rows.

    ``buffer`` gives the calling thread memory it may use until it asks for the same again.
    """

    def __init__(self, pool: ThreadPoolExecutor):
        self._pool = pool
        self._own = threading.local()

    def start(
        self, rows: int, row_elements: int, work: Callable[[int, int], T], block: int | None = None
    ) -> list["Future[T]"]:
        """Have ``work(first row, last row + 1)`` called for all runs; their results, in order, are to come."""
        step = max(1, (block or BLOCK) // max(1, row_elements))
        return [self._pool.submit(work, first, last) for first, last in pairwise([*range(0, rows, step), rows])]

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
    """As many threads as torch would use (``OMP_NUM_THREADS``), eight at most, and one more, for the time in which
    one waits to write: a file takes one writer at a time."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(min(threads, MAX_THREADS) + 1, "merge", _use_one_thread)
    try:
        yield Workers(pool)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the threads above changed the default for threads to come


def _use_one_thread() -> None:
    torch.get_num_threads()  # a thread takes the default at its first use, which would undo what is set before it
    torch.set_num_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch uses one thread for what the caller does: its others would go on spinning for a while after each
    operation, and take the cores from the workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def squared_norm(left: torch.Tensor, right: torch.Tensor) -> float:
    """||L R||^2 (Frobenius) of factors (n, r) and (r, m), by their Gram matrices: sum of (L^T L) * (R R^T)."""
    left, right = left.double(), right.double()
    return max(0.0, torch.sum((left.T @ left) * (right @ right.T)).item())  # of adapters that cancel, a little below


def add_and_round(
    block: torch.Tensor, left: torch.Tensor, right: torch.Tensor, target: torch.dtype, space: Workers
) -> tuple[torch.Tensor, tuple[float, float]]:
    """R(W + D) for a run of rows, with what rounding did to it.

    Args:
        block: W, (rows, columns), in the type it is stored in.
        left, right: D = left @ right, (rows, r) and (r, columns), fp32.
        target: the type R rounds to.

    Returns:
        the rounded sum in a buffer of ``space``, and (||R(W+D) - (W+D)||^2, <R(W+D) - R(W), D> - <D, D>), which are
        not finite where the sum is not.
    """
    shape = tuple(block.shape)
    exact = space.buffer("exact", shape).copy_(block)
    # <R(W + D) - R(W), D> = <R(W + D) - (W + D), D> + <D, D> - <R(W) - W, D>, the last 0 where R(W) is W
    along = 0.0
    if block.dtype != target and target != torch.float32:
        along -= _along(space.buffer("off", shape).copy_(block.to(target)).sub_(exact), left, right)
    exact.addmm_(left, right)
    if target == torch.float32:
        lowest, highest = exact.aminmax()
        return exact, (0.0 * (highest - lowest).item(), along)
    rounded = space.buffer("rounded", shape, target).copy_(exact)
    off = space.buffer("off", shape).copy_(rounded).sub_(exact)
    flat = off.view(-1)
    return rounded, (torch.dot(flat, flat).item(), along + _along(off, left, right))


@cache
def compiled_bf16() -> Callable | None:
    """:func:`asu_lora.merging.bf16_kernels.merge_rows`, or None where that can't be: without numba, with one that
    doesn't go with the numpy there is, without a folder to keep what it compiled, and on systems other than POSIX's."""
    try:
        from asu_lora.merging.bf16_kernels import merge_rows
    except Exception:  # numba's own errors have no base below Exception
        return None
    return merge_rows


def _along(off: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> float:
    """<off, L R> = <off R^T, L>."""
    return torch.sum((off @ right.T) * left).item()
