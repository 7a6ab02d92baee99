"""What a person should know of adapters that are to be stacked, read off their folders."""

import re
from collections.abc import Sequence
from pathlib import Path

from asu_lora.adapters.adapter_config import read_adapter_config
from asu_lora.adapters.adapter_spec import weighted
from asu_lora.adapters.lineage import contents_of, lacking
from asu_lora.adapters.manifest import fingerprint_of, has_manifest, read_manifest
from asu_lora.bases.source import BaseSource

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def missing_ground(folders: Sequence[tuple[Path, float]]) -> list[str]:
    """One sentence for every adapter that was trained on top of others which aren't in the stack as they were then.

    An adapter that was combined from others stands for them.
    """
    manifests = [read_manifest(folder) if has_manifest(folder) else None for folder, _ in folders]
    own = [
        {"name": folder.name, "weight": weight, "fingerprint": (m and m.fingerprint) or fingerprint_of(folder)}
        for (folder, weight), m in zip(folders, manifests, strict=True)
    ]
    active = contents_of(manifests, own)
    notes = []
    for (folder, _), manifest in zip(folders, manifests, strict=True):
        gone = lacking(manifest.on_top_of if manifest else (), active)
        if gone:
            names = [weighted(entry.name, entry.weight) for entry, _ in gone]
            add = " ".join(f"--adapter {weighted(entry.name, round(weight, 9))}" for entry, weight in gone)
            notes.append(
                f"The adapter '{folder.name}' was trained on top of {', '.join(names)}, which this stack "
                f"doesn't have as it was then, so it may forget less and spoil more than its figures say; add {add}."
            )
    return notes


def named_otherwise(folders: Sequence[tuple[Path, float]], source: BaseSource) -> list[str]:
    """One sentence for every adapter without a manifest that names another base on the hub: nothing else could tell.

    Args:
        source: the base; only one that comes from the hub itself has a name to compare.
    """
    found = []
    for folder, _ in folders:
        named = None if has_manifest(folder) else read_adapter_config(folder).get("base_model_name_or_path")
        ids = [name for name in (named, source.name) if name and _HUB_ID.fullmatch(name) and not Path(name).exists()]
        if len(ids) == 2 and ids[0].casefold() != ids[1].casefold():
            found.append(
                f"The adapter '{folder.name}' says that it was trained on {named}, and the base is {source.name}: of "
                "other weights of the same shape its answers would mean nothing."
            )
    return found
