"""What lies in a checkpoint beside its weights: copied along, with the config told of the new weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from asu_lora.bases.checkpoint_files import CONFIG_NAME
from asu_lora.merging.merge_record import RECORD_NAME

# Tokenizers, chat templates, generation config, custom code and licences; not the base's model card, which
# describes another model, and never another copy of the weights.
_KINDS = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".py")
_NAMES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
_FOLDERS = ("additional_chat_templates",)


def copy_companions(source: Path, out: Path) -> list[str]:
    """Copy everything but weights and config from a checkpoint's folder; return the names."""
    copied = []
    for path in sorted(source.iterdir()):
        if path.is_dir() and path.name in _FOLDERS:
            shutil.copytree(path, out / path.name)
        elif (
            path.is_file()
            and (path.suffix in _KINDS or path.name.startswith(_NAMES))
            and path.name not in (CONFIG_NAME, RECORD_NAME)
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
    """``config.json`` for the merged weights: their type, and how they are quantised.

    ``transformers_weights`` is left out: it names the base's own file.
    """
    config = {key: value for key, value in config.items() if key not in ("quantization_config", "transformers_weights")}
    if dtype is not None:
        _set_dtype(config, str(dtype).removeprefix("torch."))
        config.setdefault("dtype", str(dtype).removeprefix("torch."))
    if quantization is not None:
        config["quantization_config"] = quantization
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (out / CONFIG_NAME).write_text(text, encoding="utf-8")


def _set_dtype(config: dict[str, Any], name: str) -> None:
    """Change the type wherever the config states it: ``torch_dtype`` is its name before transformers 5, and
    models of several parts state it for each."""
    for key, value in config.items():
        if key in ("dtype", "torch_dtype") and isinstance(value, str):
            config[key] = name
        elif isinstance(value, dict):
            _set_dtype(value, name)
