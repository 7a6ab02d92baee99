"""What lies in a checkpoint beside its weights: copied along, with the config told of the new weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from asu_lora.errors import BaseModelError

# Tokenizers, chat templates, generation config, custom code and licences; not the base's model card, which
# describes another model, and never another copy of the weights.
_KINDS = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".py")
_NAMES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
_FOLDERS = ("additional_chat_templates",)


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` as it stands.

    Raises:
        BaseModelError: it can't be read.
    """
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"The config.json of {folder} can't be read: {error}.") from error
    if not isinstance(config, dict):
        raise BaseModelError(f"The config.json of {folder} is no model's config.")
    return config


def copy_companions(source: Path, out: Path) -> list[str]:
    """Copy everything but weights and config from a checkpoint's folder; return the names."""
    copied = []
    for path in sorted(source.iterdir()):
        if path.is_dir() and path.name in _FOLDERS:
            shutil.copytree(path, out / path.name)
        elif (
            path.is_file()
            and (path.suffix in _KINDS or path.name.startswith(_NAMES))
            and path.name != "config.json"
            and not path.name.endswith(".index.json")
            and not path.name.startswith("adapter_")
        ):
            shutil.copyfile(path, out / path.name)
        else:
            continue
        copied.append(path.name)
    return copied


def write_config(
    config: dict[str, Any], out: Path, dtype: torch.dtype | None, quantization: dict[str, Any] | None
) -> None:
    """``config.json`` for the merged weights: their type, and how they are quantised."""
    config = {key: value for key, value in config.items() if key != "quantization_config"}
    if dtype is not None:
        _set_dtype(config, str(dtype).removeprefix("torch."))
        config.setdefault("dtype", str(dtype).removeprefix("torch."))
    if quantization is not None:
        config["quantization_config"] = quantization
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (out / "config.json").write_text(text, encoding="utf-8")


def _set_dtype(config: dict[str, Any], name: str) -> None:
    """Change the type wherever the config states it: ``torch_dtype`` is its name before transformers 5, and
    models of several parts state it for each."""
    for key, value in config.items():
        if key in ("dtype", "torch_dtype") and isinstance(value, str):
            config[key] = name
        elif isinstance(value, dict):
            _set_dtype(value, name)
