"""Rows of bf16 from file to file, added to, rounded and measured on the way, compiled by numba.

Torch takes seven operations to add, round and measure, each a pass over memory, and threads wait for Python's lock at
each of them and at each read and write: a merge takes two to three times as long as copying the files. Here a thread
needs the lock once for millions of weights. numba is an extra; without it :mod:`asu_lora.merging.row_workers` does the
same with torch. bf16 is the upper half of fp32, so that widening and rounding are shifts and sums of whole numbers.
"""

import os

import numpy
from llvmlite import ir
from numba import boolean, float32, float64, int32, int64, njit, types, uint16
from numba.extending import intrinsic

if os.name != "posix":
    raise ImportError("pread and pwrite are POSIX's")

PIECE = 1 << 16  # weights read, changed and written at a time: they stay in the processor's cache
NO_PROBLEM, NOT_READ, NOT_WRITTEN = 0, 1, 2
# Sums may be taken in any order, for the sake of vectors; NaN and infinities keep their meaning.
FAST = {"contract", "reassoc", "nsz"}

_WORD, _HALF, _FLOAT = ir.IntType(32), ir.IntType(16), ir.FloatType()
_halves, _floats = types.Array(uint16, 1, "C"), types.Array(float32, 2, "C")
_pread, _pwrite = (
    types.ExternalFunction(name, int64(int32, types.voidptr, int64, int64)) for name in ("pread", "pwrite")
)


@intrinsic
def _widen(typing_context, half):
    """bf16's bits to fp32. (In LLVM's own words: numba would compute with 64 bits.)"""

    def generate(context, builder, signature, arguments):
        bits = builder.shl(builder.zext(arguments[0], _WORD), ir.Constant(_WORD, 16))
        return builder.bitcast(bits, _FLOAT)

    return float32(uint16), generate


@intrinsic
def _round(typing_context, number):
    """fp32 to the bits of the nearest bf16, the even one of two as near."""

    def generate(context, builder, signature, arguments):
        bits = builder.bitcast(arguments[0], _WORD)
        odd = builder.and_(builder.lshr(bits, ir.Constant(_WORD, 16)), ir.Constant(_WORD, 1))
        nearest = builder.add(builder.add(bits, ir.Constant(_WORD, 0x7FFF)), odd)
        return builder.trunc(builder.lshr(nearest, ir.Constant(_WORD, 16)), _HALF)

    return uint16(float32), generate


@intrinsic
def _address(typing_context, array):
    def generate(context, builder, signature, arguments):
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.bitcast(made.data, ir.IntType(8).as_pointer())

    return types.voidptr(array), generate


@njit(boolean(boolean, int32, _halves, int64, int64), nogil=True, cache=True)
def _all_of(write, file, numbers, size, offset):
    """Read or write ``size`` bytes; whether it could be done."""
    done = 0
    while done < size:
        rest = _address(numbers[done // 2 :])
        moved = (
            _pwrite(file, rest, size - done, offset + done) if write else _pread(file, rest, size - done, offset + done)
        )
        if moved <= 0 or moved % 2:
            return False
        done += moved
    return True


@njit(
    types.UniTuple(float64, 3)(int32, int64, int32, int64, _floats, _floats),
    fastmath=FAST,
    error_model="numpy",
    nogil=True,
    cache=True,
)
def merge_rows(source, source_offset, target, target_offset, left, right):
    """R(W + L R) of rows of bf16 in one file, into another.

    Args:
        source, target: descriptors of the files; the offsets are those of the first row, in bytes.
        left, right: L, (rows, r), and R, (r, columns).

    Returns:
        ||R(W + D) - (W + D)||^2 and <R(W + D) - (W + D), D>, not finite where the sum is not; and one of NO_PROBLEM,
        NOT_READ, NOT_WRITTEN.
    """
    (rows, rank), columns = left.shape, right.shape[1]
    step = max(1, PIECE // columns)
    weights, delta = numpy.empty(step * columns, numpy.uint16), numpy.empty(columns, numpy.float32)
    change, along = 0.0, 0.0
    for first in range(0, rows, step):
        count = min(step, rows - first)
        size, at = count * columns * 2, first * columns * 2
        if not _all_of(False, source, weights, size, source_offset + at):
            return change, along, float64(NOT_READ)
        for row in range(count):
            a, k = left[first + row], 0
            delta[:] = float32(0)
            while k + 4 <= rank:  # four at a time: delta is read and written a quarter as often
                a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
                r0, r1, r2, r3 = right[k], right[k + 1], right[k + 2], right[k + 3]
                for j in range(columns):
                    delta[j] += a0 * r0[j] + a1 * r1[j] + a2 * r2[j] + a3 * r3[j]
                k += 4
            while k < rank:
                a0, r0 = a[k], right[k]
                for j in range(columns):
                    delta[j] += a0 * r0[j]
                k += 1
            weight = weights[row * columns : (row + 1) * columns]
            of_row, along_row = float32(0), float32(0)
            for j in range(columns):
                exact = _widen(weight[j]) + delta[j]
                rounded = _round(exact)
                weight[j] = rounded
                off = _widen(rounded) - exact
                of_row += off * off
                along_row += off * delta[j]
            change += of_row
            along += along_row
        if not _all_of(True, target, weights, size, target_offset + at):
            return change, along, float64(NOT_WRITTEN)
    return change, along, float64(NO_PROBLEM)
