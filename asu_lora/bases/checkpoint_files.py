"""Which files of a folder are the checkpoint: those that transformers' ``from_pretrained`` would load, and no others.

A folder may hold more weights than are used: older shards beside a newer file, a vendor's second copy
(``consolidated.safetensors``), variants. Fingerprint, loading and merging all ask here, so that they mean the same.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from asu_lora.errors import AsuLoraError, BaseModelError
from asu_lora.safetensors_header import TensorInfo, checked_header

CONFIG_NAME = "config.json"
SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
INDEX_SUFFIX = ".safetensors.index.json"

ADAPTER_CONFIG = "adapter_config.json"
_NOT_OPENED = {".bin": "pickles", ".pt": "pickles", ".pth": "pickles", ".ckpt": "pickles", ".pkl": "pickles"}
_NOT_OPENED |= {".gguf": "GGUF", ".h5": "TensorFlow's", ".msgpack": "Flax's"}
# transformers takes a folder with such a file for a distributed checkpoint, whatever else lies there.
_DISTRIBUTED = re.compile(r"shard-[0-9]{5}-model-[0-9]{5}-of-[0-9]{5}\.safetensors")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint: the file it lies in, and where there."""

    file: Path
    info: TensorInfo


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` as it stands.

    Raises:
        BaseModelError: it can't be read, or is no JSON object.
    """
    path = Path(folder) / CONFIG_NAME
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BaseModelError(f"{path} can't be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise BaseModelError(f"{path} is damaged: it is no JSON.") from error
    if not isinstance(config, dict):
        raise BaseModelError(f"{path} is no model's config: it is no JSON object.")
    return config


def refuse_adapter_inside(folder: Path) -> None:
    """A base is a base alone: transformers would silently load an adapter that lies beside it.

    Raises:
        BaseModelError: the folder holds an adapter's config too.
    """
    if (Path(folder) / ADAPTER_CONFIG).exists():
        raise BaseModelError(
            f"{folder} holds a base and an adapter ({ADAPTER_CONFIG}), which transformers would load together: "
            "move the adapter's files into a folder of their own and name it with --adapter."
        )


def checkpoint_files(folder: Path) -> list[Path]:
    """The safetensors files that ``from_pretrained`` loads from a folder, in its order: a later one overrules.

    Raises:
        BaseModelError: there are none, an adapter lies beside them, or the index is damaged.
    """
    folder = Path(folder)
    refuse_adapter_inside(folder)
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise BaseModelError(f"The folder {folder} can't be read: {error.strerror}.") from error
    if any(_DISTRIBUTED.fullmatch(name) for name in names):
        raise BaseModelError(
            f"{folder} is a distributed checkpoint: convert it with save_pretrained before it is used."
        )
    named = read_config(folder).get("transformers_weights") if CONFIG_NAME in names else None
    if named is not None:
        path = _inside(folder, named, CONFIG_NAME)
        return _shards(folder, path) if path.name.endswith(INDEX_SUFFIX) else [path]
    if (folder / SINGLE_NAME).is_file():
        return [folder / SINGLE_NAME]
    if (folder / INDEX_NAME).is_file():
        return _shards(folder, folder / INDEX_NAME)
    raise BaseModelError(_nothing_to_load(folder, names))


def read_checkpoint(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor that ``from_pretrained`` reads from a folder, in the order of files and bytes; no weight is read.

    Raises:
        BaseModelError: as :func:`checkpoint_files` does; or a file is missing, cut off or damaged.
    """
    found: dict[str, StoredTensor] = {}
    for path in checkpoint_files(folder):
        try:
            header = checked_header(path)
        except AsuLoraError as error:
            raise BaseModelError(f"The checkpoint {folder} can't be read: {error}") from error
        for info in sorted(header.values(), key=lambda info: info.start):
            found.pop(info.name, None)  # the later file's, at its place
            found[info.name] = StoredTensor(path, info)
    if not found:
        raise BaseModelError(f"The checkpoint {folder} is empty: its files hold no tensor.")
    return found


def all_safetensors(folder: Path) -> list[Path]:
    """Every safetensors file of a folder, whether it is used or not."""
    return sorted(Path(folder).glob("*.safetensors"))


def _shards(folder: Path, index: Path) -> list[Path]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except OSError as error:
        raise BaseModelError(f"{index} can't be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise BaseModelError(f"{index} is damaged: it is no JSON.") from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not isinstance(content.get("metadata"), dict):
        raise BaseModelError(
            f"{index} is damaged: an index has 'metadata' and, in 'weight_map', a file for each tensor."
        )
    if not all(isinstance(name, str) for name in weight_map.values()):
        raise BaseModelError(f"{index} is damaged: its 'weight_map' names a file for each tensor.")
    return [_inside(folder, name, index.name) for name in sorted(set(weight_map.values()))]


def _inside(folder: Path, name: Any, named_by: str) -> Path:
    """A safetensors file or index that another file names, which must lie in the folder."""
    if not isinstance(name, str) or not name.endswith((".safetensors", INDEX_SUFFIX)):
        raise BaseModelError(f"{folder / named_by} names {name!r} as weights, which is no safetensors file.")
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or "\\" in name:
        raise BaseModelError(f"{folder / named_by} names {name}, which lies outside the checkpoint's folder.")
    path = folder / name
    if not path.is_file():
        raise BaseModelError(f"{folder} is incomplete: {named_by} names {name}, which is not there.")
    return path


def _nothing_to_load(folder: Path, names: list[str]) -> str:
    said = f"{folder} holds no {SINGLE_NAME}"
    other = next((name for name in names if name.endswith(".safetensors")), None)
    if other:
        return f"{said} and no {INDEX_NAME}, so that transformers would not load {other}: save it with save_pretrained."
    shut = next((name for name in names if Path(name).suffix in _NOT_OPENED), None)
    if shut:
        kind = _NOT_OPENED[Path(shut).suffix]
        return f"{said}: its weights are {kind} ({shut}), which are not opened; convert them with save_pretrained."
    return f"{said}: it is no checkpoint."
