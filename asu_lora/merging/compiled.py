"""The inner loop of a merge from bf16 to bf16 in one pass over the weights, compiled by numba.

Torch takes seven operations to add, round and measure, each a pass over memory, and its threads wait for Python's
lock at each of them. This module needs numba, which is an extra: without it :mod:`asu_lora.merging.blocks` does the
same with torch. bf16 is the upper half of fp32, so that widening and rounding are shifts and sums of whole numbers.
"""

from llvmlite.ir import FloatType, IntType
from numba import float32, float64, njit, types, uint16, uint32
from numba.extending import intrinsic

# Sums may be taken in any order, for the sake of vectors; NaN and infinities keep their meaning.
FAST = {"contract", "reassoc", "nsz"}


@intrinsic
def _as_float(typing_context, bits):
    return float32(uint32), lambda context, builder, signature, values: builder.bitcast(values[0], FloatType())


@intrinsic
def _as_bits(typing_context, number):
    return uint32(float32), lambda context, builder, signature, values: builder.bitcast(values[0], IntType(32))


_halves, _floats = types.Array(uint16, 2, "C"), types.Array(float32, 2, "C")


@njit(types.UniTuple(float64, 2)(_halves, _floats, _halves),
      fastmath=FAST, error_model="numpy", nogil=True, cache=True)
def add_and_round_bf16(weight, delta, rounded):
    """R(W + D) into ``rounded``.

    Args:
        weight: W, (rows, columns), the bits of bf16.
        delta: D, (rows, columns).
        rounded: (rows, columns), the bits of bf16.

    Returns:
        (||R(W + D) - (W + D)||^2, <R(W + D) - (W + D), D>), not finite where the sum is not.
    """
    change, along = 0.0, 0.0
    for row in range(weight.shape[0]):
        of_row, along_row = float32(0), float32(0)
        for column in range(weight.shape[1]):
            exact = _as_float(uint32(weight[row, column]) << uint32(16)) + delta[row, column]
            bits = _as_bits(exact)
            # to the nearest, and to the even one of two as near
            nearest = (bits + uint32(0x7FFF) + ((bits >> uint32(16)) & uint32(1))) & uint32(0xFFFF0000)
            rounded[row, column] = uint16(nearest >> uint32(16))
            off = _as_float(nearest) - exact
            of_row += off * off
            along_row += off * delta[row, column]
        change += of_row
        along += along_row
    return change, along
