"""Safetensors shards with an index, written as the tensors come."""

import json
import math
import threading
from dataclasses import dataclass
from pathlib import Path

import torch

from asu_lora.bases.checkpoint_files import INDEX_NAME, SINGLE_NAME
from asu_lora.errors import SettingError
from asu_lora.merging.checkpoint.tensor_reader import DTYPE_NAMES
from asu_lora.merging.checkpoint.thread_handles import Handles

PIECE = 1 << 18  # bytes written at a time: of larger ones Linux makes larger pages, and has to look for them
HEADER_ROOM = 1 << 18  # bytes left free at the head of a shard: some 1,500 tensors


@dataclass(frozen=True)
class Place:
    """Where a tensor goes: the shard, and the offset of its first byte there."""

    shard: Path
    start: int


class TensorWriter:
    """Writes tensors into shards, their rows in any order and from any thread, holding none of them.

    The safetensors header comes first in the file and needs every tensor's offset. So each shard begins with
    room for it, filled in at the end and padded with spaces, as the format allows.

    Args:
        folder: where the shards go.
        shard_size: bytes of tensors after which the next shard begins; a larger tensor gets one of its own.
    """

    def __init__(self, folder: Path, shard_size: int):
        if shard_size < 1:
            raise SettingError(f"The shard size must be 1 byte or more, not {shard_size}.")
        self.folder, self.shard_size = Path(folder), shard_size
        self.total_bytes = 0
        self._shards: list[Path] = []
        self._headers: list[dict[str, dict]] = []
        self._handles = Handles("r+b")
        self._used = self._header_bytes = self._missing = 0
        self._lock = threading.Lock()  # of what is missing

    def begin(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Place:
        """Announce the next tensor; its rows follow through :meth:`write_rows`."""
        size = dtype.itemsize * math.prod(shape)
        entry = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [0, 0]}
        room = len(json.dumps({name: entry})) + 2 * 20  # two offsets of up to 20 digits
        if (
            not self._shards
            or (self._used and self._used + size > self.shard_size)
            or self._header_bytes + room > HEADER_ROOM
        ):
            self._next_shard()
        entry["data_offsets"] = [self._used, self._used + size]
        self._headers[-1][name] = entry
        self._header_bytes += room
        place = Place(self._shards[-1], HEADER_ROOM + self._used)
        self._used += size
        with self._lock:
            self._missing += size
        self.total_bytes += size
        return place

    def write_rows(self, place: Place, first: int, rows: torch.Tensor) -> None:
        """Rows of an announced tensor, from ``first`` on, in its type."""
        if rows.numel() == 0:
            return
        row_bytes = rows.nbytes // rows.shape[0] if rows.dim() else rows.nbytes
        view = rows.contiguous().view(-1).view(torch.uint8).numpy().data
        self.written(len(view))
        self._write(place.shard, place.start + first * row_bytes, view)

    def descriptor(self, place: Place, first: int, row_bytes: int) -> tuple[int, int]:
        """The calling thread's descriptor of a shard, and where there a row begins; who writes there says so with
        :meth:`written`."""
        return self._handles.at(place.shard, 0).fileno(), place.start + first * row_bytes

    def written(self, size: int) -> None:
        """So many bytes of an announced tensor are there."""
        with self._lock:
            self._missing -= size

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """A whole tensor at once."""
        self.write_rows(self.begin(name, tensor.dtype, tuple(tensor.shape)), 0, tensor)

    def finish(self) -> list[Path]:
        """Write the headers and the index, give the shards their final names, and return them."""
        if self._missing:
            raise ValueError(f"tensors were announced with {self._missing} bytes more than were written")
        for shard, header in zip(self._shards, self._headers, strict=True):
            text = json.dumps({"__metadata__": {"format": "pt"}} | header, separators=(",", ":")).encode()
            room = HEADER_ROOM - 8
            self._write(shard, 0, memoryview(room.to_bytes(8, "little") + text.ljust(room)))
        self.close()
        if len(self._shards) == 1:
            return [self._shards[0].rename(self.folder / SINGLE_NAME)]
        count, weight_map, paths = len(self._shards), {}, []
        for number, (shard, header) in enumerate(zip(self._shards, self._headers, strict=True), 1):
            paths.append(shard.rename(self.folder / f"model-{number:05d}-of-{count:05d}.safetensors"))
            weight_map.update(dict.fromkeys(header, paths[-1].name))
        index = {"metadata": {"total_size": self.total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (self.folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        return paths

    def __enter__(self) -> "TensorWriter":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files; for the way out when something failed."""
        self._handles.close()

    def _write(self, shard: Path, offset: int, view: memoryview) -> None:
        file = self._handles.at(shard, offset)
        while view:  # a raw write may take less than it was given
            view = view[file.write(view[:PIECE]) :]

    def _next_shard(self) -> None:
        self._shards.append(self.folder / f"shard-{len(self._shards)}.part")
        self._headers.append({})
        self._shards[-1].touch()
        self._used, self._header_bytes = 0, 64
