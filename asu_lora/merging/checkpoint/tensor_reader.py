"""A checkpoint on the disk, one tensor at a time, or a few rows of one."""

from pathlib import Path

import torch

from asu_lora.bases.checkpoint_files import read_checkpoint
from asu_lora.errors import BaseModelError
from asu_lora.merging.checkpoint.thread_handles import Handles
from asu_lora.safetensors_header import TensorInfo

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class LazyTensorReader:
    """The tensors that transformers would load from a folder, read when asked for.

    The files are read, not mapped: pages of a mapped file count as the process's own memory, and a checkpoint
    read through a mapping would look, and on a small machine behave, as if it had been loaded whole.

    Attributes:
        folder: the checkpoint's folder.
        tensors: by name, in the order in which they lie in the files, so that a walk over
            them reads forwards.

    Raises:
        BaseModelError: no safetensors, or a missing, truncated or damaged file.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        found = read_checkpoint(self.folder)
        self.tensors: dict[str, TensorInfo] = {name: stored.info for name, stored in found.items()}
        self._file_of: dict[str, Path] = {name: stored.file for name, stored in found.items()}
        self._handles = Handles("rb")

    @property
    def total_bytes(self) -> int:
        return sum(info.end - info.start for info in self.tensors.values())

    def dtype(self, name: str) -> torch.dtype:
        info = self.tensors[name]
        if info.dtype not in DTYPES:
            raise BaseModelError(f"The tensor {name} has the type {info.dtype}, which can't be merged.")
        return DTYPES[info.dtype]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def read(self, name: str) -> torch.Tensor:
        """One tensor, whole, in the type it is stored in."""
        info, dtype = self.tensors[name], self.dtype(name)
        tensor = torch.empty(info.shape, dtype=dtype)
        if tensor.numel():
            self._fill(name, info.start, tensor.reshape(-1).view(torch.uint8))
        return tensor

    def read_rows(self, name: str, first: int, into: torch.Tensor) -> torch.Tensor:
        """Rows of a tensor from ``first`` on, as many as ``into`` has room for; from any thread."""
        info = self.tensors[name]
        row_bytes = (info.end - info.start) // info.shape[0]
        self._fill(name, info.start + first * row_bytes, into.view(-1).view(torch.uint8))
        return into

    def descriptor(self, name: str, first: int) -> tuple[int, int]:
        """The calling thread's descriptor of the file, and where there a tensor's row begins, in bytes."""
        info, path = self.tensors[name], self._file_of[name]
        row_bytes = (info.end - info.start) // info.shape[0]
        try:
            return self._handles.at(path, 0).fileno(), info.start + first * row_bytes
        except OSError as error:
            raise _unreadable(path, error) from error

    def close(self) -> None:
        self._handles.close()

    def __enter__(self) -> "LazyTensorReader":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def _fill(self, name: str, offset: int, piece: torch.Tensor) -> None:
        path, view = self._file_of[name], piece.numpy().data
        try:
            file, done = self._handles.at(path, offset), 0
            while done < len(view):  # a raw read may give less than was asked for: 2 GiB at most on Linux
                got = file.readinto(view[done:])
                if not got:
                    raise BaseModelError(f"{path.name} ends before its tensor {name}: the checkpoint is truncated.")
                done += got
        except OSError as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> BaseModelError:
    return BaseModelError(f"{path} can't be read: {error.strerror}.")
