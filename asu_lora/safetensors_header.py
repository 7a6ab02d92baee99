"""The safetensors format, read without torch: the header alone, or one tensor's bytes at a time."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asu_lora.errors import AdapterError

# A header costs some 25 times its size in memory. So it must be small, or small beside the numbers it announces.
FREE_HEADER = 1 << 20  # bytes
MAX_HEADER = 32 << 20  # bytes; 140,000 tensors, the experts of the largest mixtures, take 24 MB
HEADER_SHARE = 8  # bytes of numbers to each byte of a larger header
MAX_DIMENSIONS = 8
PIECE = 1 << 24  # bytes read at a time while looking for NaN

_WIDTH = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
# A float is infinite or NaN when all bits of its exponent are set: (unsigned type, exponent bits). Testing
# the bits needs no torch for the types numpy doesn't know. E4M3 has no infinity, and NaN has all bits set.
_EXPONENT = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: ``start`` and ``end`` are offsets in the file, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name, from its header alone.

    Raises:
        AdapterError: the file is missing, cut off, or no safetensors file.
    """
    name = Path(path).name
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if length.to_bytes(8, "little") == b"version ":  # of https://git-lfs.github.com/spec
                raise AdapterError(
                    f"{name} is a pointer of Git LFS and holds no weights: fetch them with 'git lfs pull'."
                )
            if size < 8 or not 2 <= length <= size - 8:
                raise AdapterError(f"{name} is no whole safetensors file: its header is damaged or cut off.")
            if length > MAX_HEADER or length > max(FREE_HEADER, (size - length) // HEADER_SHARE):
                raise AdapterError(
                    f"{name} is refused: its header has {length} of its {size} bytes, which no adapter's or base's has."
                )
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = {key: _tensor(key, entry, 8 + length) for key, entry in header.items()}
    except OSError as error:
        raise AdapterError(f"{name} can't be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise AdapterError(f"{name} is no safetensors file: its header makes no sense.") from error
    end = 8 + length
    for info in sorted(tensors.values(), key=lambda info: (info.start, info.end)):
        if info.start != end:
            raise AdapterError(f"{name} is damaged: the bytes of {info.name} don't begin where others end.")
        end = info.end
        if info.end - info.start != math.prod(info.shape) * _WIDTH.get(info.dtype, 0):
            raise AdapterError(
                f"{name} is damaged: the bytes of {info.name} don't fit its shape "
                f"{list(info.shape)} and type {info.dtype}."
            )
    if end != size:
        raise AdapterError(f"{name} is cut off or damaged: it has {size} bytes, and its header announces {end}.")
    return tensors


def checked_header(path: Path) -> dict[str, TensorInfo]:
    """:func:`read_header`, and what else the format's own reader asks of a file.

    Raises:
        AdapterError: either refuses it.
    """
    from safetensors import SafetensorError, safe_open

    tensors = read_header(path)
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{Path(path).name} is damaged: {error}.") from error
    return tensors


def _tensor(key: str, entry: dict[str, Any], origin: int) -> TensorInfo:
    """One entry of a header, its offsets counted from the beginning of the file.

    Raises:
        ValueError, KeyError, TypeError: it makes no sense.
    """
    key.encode("utf-8")  # half a surrogate pair raises
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    numbers = [*shape, start, end]
    if not all(type(number) is int and number >= 0 for number in numbers) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"the shape of {key}")
    if not isinstance(entry["dtype"], str):
        raise TypeError(f"the type of {key}")
    return TensorInfo(key, entry["dtype"], tuple(shape), origin + start, origin + end)


def not_finite(path: Path, tensors: dict[str, TensorInfo]) -> Iterator[str]:
    """The names of the tensors that hold a NaN or an infinity; 16 MiB are in memory at a time."""
    import numpy

    with open(path, "rb") as file:
        for info in tensors.values():
            if info.dtype not in _EXPONENT:
                continue
            kind, bits = _EXPONENT[info.dtype]
            file.seek(info.start)
            left = info.end - info.start
            while left > 0:
                piece = file.read(min(left, PIECE))
                if not piece:
                    raise AdapterError(f"{Path(path).name} was cut off while it was read.")
                values = numpy.frombuffer(piece, dtype=kind)
                mask = values.dtype.type(bits)
                if ((values & mask) == mask).any():
                    yield info.name
                    break
                left -= values.nbytes
