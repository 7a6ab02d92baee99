"""What a merged folder says of the adapters in it: hashes of their weights, and no name, which may be a person's."""

import json
from collections.abc import Sequence
from pathlib import Path

from asu_lora.adapters.lora_folder import LoraFolder
from asu_lora.adapters.manifest import WEIGHTS_NAME
from asu_lora.files import read_json, sha256_file

RECORD_NAME = "asu_lora_merge.json"
FORMAT_VERSION = 1


def write_record(folder: Path, adapters: Sequence[tuple[LoraFolder, float]]) -> None:
    """Write which weights, by the sha256 of their file, were added with which weight."""
    told = [{"sha256": sha256_file(lora.path / WEIGHTS_NAME), "weight": weight} for lora, weight in adapters]
    text = json.dumps({"format_version": FORMAT_VERSION, "adapters": told}, indent=2) + "\n"
    (folder / RECORD_NAME).write_text(text, encoding="utf-8")


def read_record(folder: Path) -> list[tuple[str, float]] | None:
    """(sha256, weight) of what was merged; None where the folder doesn't say, or says it in another form."""
    try:
        return [(str(part["sha256"]), float(part["weight"])) for part in read_json(folder / RECORD_NAME)["adapters"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
