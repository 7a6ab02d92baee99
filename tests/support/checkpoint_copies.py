"""Copies of a tiny checkpoint, to be laid out in other ways."""

import json
import shutil
from pathlib import Path


def copy(base: Path, folder: Path) -> Path:
    return shutil.copytree(base, folder)


def rewrite_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
