"""An adapter as it may leave its store: nothing of the machine it was made on, and no hash that a guess confirms."""

import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from asu_lora.adapters.adapter_config import read_adapter_config
from asu_lora.adapters.manifest import CARD_NAME, CONFIG_NAME, has_manifest, read_manifest
from asu_lora.adapters.model_card import public_base_name, restate
from asu_lora.adapters.request_key import keyed, read_key
from asu_lora.adapters.verify import verify_adapter
from asu_lora.files import disk_errors, link_tree, write_atomic

if TYPE_CHECKING:
    from asu_lora.adapters.store import AdapterStore


@contextmanager
def shareable(store: "AdapterStore", name: str) -> Iterator[Path]:
    """A verified copy of an adapter for as long as the block lasts, with its base by name and its request keyed.

    Raises:
        AdapterError: the adapter is broken, or a file of it is a link that leads out of its folder.
        StoreError: there is none of this name, or the disk refuses.
    """
    with store.snapshot(name) as snapshot:
        verify_adapter(snapshot).raise_if_bad()
        if snapshot.parent != store.root:
            _strip(store, snapshot)
            yield snapshot
            return
        with TemporaryDirectory() as scratch:  # a store that is read-only
            link_tree(snapshot, Path(scratch) / name)
            _strip(store, Path(scratch) / name)
            yield Path(scratch) / name


def config_as_shared(folder: Path, any_path: bool = False) -> str | None:
    """``adapter_config.json`` as it leaves the store, with the base by name alone; None where it leaves as it is.

    Args:
        any_path: take ``a/b`` for a path although there is none here, seen from another folder than when it was made.

    Raises:
        AdapterError: it can't be read.
    """
    config = read_adapter_config(folder)
    base = config.get("base_model_name_or_path")
    if not base:
        return None
    name = PureWindowsPath(base).name if any_path else public_base_name(base)
    return None if name == base else json.dumps(config | {"base_model_name_or_path": name}, indent=2, sort_keys=True)


def _card_as_shared(folder: Path) -> str:
    """A card that another program wrote, with the base by name alone, and none for the hub, which takes its own ids."""
    base, text = read_adapter_config(folder)["base_model_name_or_path"], (folder / CARD_NAME).read_bytes()
    for_the_hub = {f"base_model: {base}", f"- base_model:adapter:{base}"}  # as PEFT writes them
    lines = (
        line for line in text.decode(errors="replace").splitlines(keepends=True) if line.strip() not in for_the_hub
    )
    return "".join(lines).replace(base, public_base_name(base))


def _strip(store: "AdapterStore", folder: Path) -> None:
    shared, texts = config_as_shared(folder), {}
    if shared is not None:
        texts[CONFIG_NAME] = shared
    if has_manifest(folder):
        manifest = read_manifest(folder)
        files = manifest.files | {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
        # An older manifest has a plain hash; where the store has no secret yet, one that nobody will ever know does.
        hidden = keyed(manifest.request.fingerprint, read_key(store.root) or secrets.token_bytes(32))
        request = manifest.request.model_copy(update={"fingerprint": hidden})
        known = manifest.base.model_copy(update={"id": public_base_name(manifest.base.id)})
        changed = manifest.model_copy(update={"name": folder.name, "base": known, "request": request, "files": files})
        texts |= restate(folder, changed)
    if shared is not None and CARD_NAME not in texts and (folder / CARD_NAME).is_file():
        texts[CARD_NAME] = _card_as_shared(folder)
    with disk_errors(store.root):
        for file, text in texts.items():
            write_atomic(folder / file, text)
