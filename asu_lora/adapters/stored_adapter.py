"""One adapter of the store as it can be seen without reading its weights."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asu_lora.adapters.adapter_config import read_adapter_config
from asu_lora.adapters.manifest import WEIGHTS_NAME, Manifest, fingerprint_of, has_manifest, read_manifest
from asu_lora.adapters.verify import PICKLE_SUFFIXES
from asu_lora.errors import AdapterError
from asu_lora.files import adapter_files

_SHARD = re.compile(r"adapter_model-\d+-of-\d+\.safetensors|adapter_model\.safetensors\.index\.json")


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter folder: its name in the store, what it says of itself, and its state.

    ``state`` is ``"ready"``, ``"imported"`` (a plain PEFT LoRA without a manifest) or ``"broken: why"``. ``left_out``
    are the files that lay beside it where it was imported from, and were not taken.
    """

    name: str
    path: Path
    manifest: Manifest | None
    adapter_config: dict[str, Any] = field(repr=False)
    size_bytes: int
    state: str
    left_out: tuple[str, ...] = ()

    @property
    def broken(self) -> bool:
        return self.state.startswith("broken")

    @property
    def base_id(self) -> str | None:
        """The base's id: from the manifest, or what PEFT wrote into the config."""
        return self.manifest.base.id if self.manifest else self.adapter_config.get("base_model_name_or_path")

    @property
    def fingerprint(self) -> str:
        """As recorded in the manifest, or computed from the weights where nothing is recorded."""
        recorded = self.manifest.fingerprint if self.manifest else None
        return recorded or fingerprint_of(self.path)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {
            "name": self.name,
            "path": str(self.path),
            "state": self.state,
            "base": self.base_id,
            "size_bytes": self.size_bytes,
            "manifest": self.manifest.model_dump(mode="json") if self.manifest else None,
            "adapter_config": self.adapter_config,
        }


def look_at(folder: Path, name: str | None = None) -> StoredAdapter:
    """Read config and manifest of a folder (not its weights) and say in what state it is. Never raises
    because of what is in the folder: that is what ``state`` is for. The name is the folder's if not given."""
    from asu_lora.safetensors_header import read_header

    name = name or folder.name
    manifest, config, sizes, problem = None, {}, {}, None
    try:
        sizes = {name: path.stat().st_size for name, path in adapter_files(folder)}
        config = read_adapter_config(folder)
        if has_manifest(folder):
            manifest = read_manifest(folder)
            # The folder's name is the adapter's name, also when someone moved it by hand.
            manifest = manifest.model_copy(update={"name": name})
            missing = sorted(set(manifest.files) - set(sizes))
            if missing:
                problem = f"{missing[0]} is missing"
        if WEIGHTS_NAME not in sizes:
            problem = f"{WEIGHTS_NAME} is missing"
            if pickled := sorted(file for file in sizes if Path(file).suffix.lower() in PICKLE_SUFFIXES):
                problem += f" ({pickled[0]} is a pickle, which is never opened: save it anew with safetensors)"
            elif any(_SHARD.fullmatch(file) for file in sizes):
                problem += " (it is sharded: load it with PEFT and save it anew as one file)"
        elif problem is None:
            read_header(folder / WEIGHTS_NAME)  # the first few kilobytes: finds a file that was cut off
    except AdapterError as error:
        problem = str(error).rstrip(".")
    except OSError as error:
        problem = f"it can't be read: {error.strerror}"
    state = f"broken: {problem}" if problem else "ready" if manifest else "imported"
    return StoredAdapter(name, folder, manifest, config, sum(sizes.values()), state)
