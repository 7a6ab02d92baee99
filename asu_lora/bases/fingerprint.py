"""Fingerprints of a base: the hash of its tensors, and that of all else by which it reads and computes."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from asu_lora.bases.checkpoint_files import StoredTensor, all_safetensors, checkpoint_files, read_checkpoint
from asu_lora.errors import AsuLoraError, BaseModelError
from asu_lora.files import cache_folder
from asu_lora.safetensors_header import checked_header

_CHUNK = 8 << 20
_CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json")
# by what else than its weights a base reads and computes
_BESIDE = (
    *_CONFIGS,
    "tokenizer.json",
    "tokenizer.model*",
    "special_tokens_map.json",
    "added_tokens.json",
    "*vocab*",
    "merges.txt",
    "*.model",
    "*.spm",
    "*.bpe",
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "*.py",
)
_OF_NO_MATTER = ("_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")


def weights_fingerprint(folder: Path) -> str:
    """SHA-256 over the tensors of a checkpoint: names, types, shapes, bytes, in the order of their names.

    The tensors are those that transformers would load (see :mod:`asu_lora.bases.checkpoint_files`), so that the same
    weights give the same figure however they are split into shards and whatever lies beside them. Every byte is read
    (1-2 GB/s), once: the figure is kept in the user's cache beside the files' sizes and times.

    Raises:
        BaseModelError: the folder has no safetensors, or they are damaged.
    """
    return _kept(checkpoint_files(folder), lambda: _hash_tensors(read_checkpoint(folder).values()))


def earlier_fingerprint(folder: Path) -> str | None:
    """What the fingerprint was before it left out files that nobody loads; None where there are no such files.

    Adapters of that time are recorded with it.
    """
    files = all_safetensors(folder)
    if not set(files) - set(checkpoint_files(folder)):
        return None
    with suppress(AsuLoraError, OSError):
        tensors = [StoredTensor(path, info) for path in files for info in checked_header(path).values()]
        return _kept(files, lambda: _hash_tensors(tensors))
    return None


def reading_fingerprint(folder: Path) -> str:
    """SHA-256 over config, tokenizer, chat templates and own code: with others the same weights answer otherwise.

    Raises:
        BaseModelError: one of the files can't be read.
    """
    digest = hashlib.sha256()
    for file in sorted({file for pattern in _BESIDE for file in folder.glob(pattern) if file.is_file()}):
        try:
            told = _told(file)
        except OSError as error:
            raise BaseModelError(f"{file} can't be read: {error.strerror}.") from error
        digest.update(json.dumps([str(file.relative_to(folder)), hashlib.sha256(told).hexdigest()]).encode())
    return digest.hexdigest()


def _told(file: Path) -> bytes:
    """What a file says; of a config's entries only those that change an answer."""
    content = file.read_bytes()
    if file.name in _CONFIGS:
        with suppress(ValueError, AttributeError):
            entries = {name: value for name, value in json.loads(content).items() if name not in _OF_NO_MATTER}
            return json.dumps(entries, sort_keys=True).encode()
    return content


def _kept(files: list[Path], compute: Callable[[], str]) -> str:
    """The figure from the cache, else computed and kept there. A cache that can't be used is done without."""
    kept = None
    with suppress(OSError):
        state = [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
        kept = cache_folder() / "fingerprints" / hashlib.sha256(json.dumps(state).encode()).hexdigest()
        figure = kept.read_text(encoding="ascii", errors="replace").strip()
        if re.fullmatch("[0-9a-f]{64}", figure):
            return figure
    figure = compute()
    if kept is not None:
        with suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_suffix(f".{os.getpid()}")
            part.write_text(figure, encoding="ascii")
            part.replace(kept)
    return figure


def _hash_tensors(tensors: Iterable[StoredTensor]) -> str:
    """Hash tensor by tensor from the files' own bytes; nothing is loaded."""
    digest = hashlib.sha256()
    for tensor in sorted(tensors, key=lambda tensor: tensor.info.name):
        info, file = tensor.info, tensor.file
        digest.update(json.dumps([info.name, info.dtype, list(info.shape)]).encode())
        size = info.end - info.start
        try:
            with file.open("rb") as stream:
                stream.seek(info.start)
                while size:
                    block = stream.read(min(size, _CHUNK))
                    if not block:
                        raise BaseModelError(f"{file.name} ends before its last tensor: the checkpoint is truncated.")
                    digest.update(block)
                    size -= len(block)
        except OSError as error:
            raise BaseModelError(f"{file} can't be read: {error.strerror}.") from error
    return digest.hexdigest()
