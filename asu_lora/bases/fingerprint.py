"""A fingerprint of a base: the hash of the names, types, shapes and bytes of its tensors."""

import hashlib
import json
import os
from pathlib import Path

from asu_lora.errors import BaseModelError
from asu_lora.files import cache_folder

_CHUNK = 8 << 20


def weights_fingerprint(folder: Path, progress=None) -> str:
    """SHA-256 over the tensors of a checkpoint: names, types, shapes, bytes, in the order of their names.

    The same weights give the same figure however they are split into shards. Every byte is read (1-2 GB/s),
    once: the figure is kept in the user's cache beside the files' sizes and times.

    Args:
        progress: called with (bytes done, bytes in all).

    Raises:
        BaseModelError: the folder has no safetensors.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BaseModelError(
            f"{folder.name} holds no safetensors: convert the checkpoint (transformers' "
            "save_pretrained does) before it is used here; pickles are not opened."
        )
    state = [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    key = hashlib.sha256(json.dumps(state).encode()).hexdigest()
    kept = cache_folder() / "fingerprints" / key
    if kept.is_file():
        return kept.read_text().strip()
    figure = _hash_tensors(files, progress)
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")
    part.write_text(figure)
    part.replace(kept)
    return figure


def _hash_tensors(files: list[Path], progress) -> str:
    """Hash tensor by tensor from the files' own bytes; nothing is loaded."""
    tensors, total = [], 0
    for file in files:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                tensors.append((name, entry["dtype"], entry["shape"], file, 8 + length + start, end - start))
                total += end - start
    digest, done = hashlib.sha256(), 0
    for name, dtype, shape, file, offset, size in sorted(tensors, key=lambda t: t[0]):
        digest.update(json.dumps([name, dtype, shape]).encode())
        with file.open("rb") as stream:
            stream.seek(offset)
            while size:
                block = stream.read(min(size, _CHUNK))
                if not block:
                    raise BaseModelError(f"{file.name} ends before its last tensor: the checkpoint is truncated.")
                digest.update(block)
                size -= len(block)
                done += len(block)
                if progress:
                    progress(done, total)
    return digest.hexdigest()
