"""Rows in a file, one a line."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def jsonl(path: Path, content: Iterable[Mapping[str, Any]]) -> str:
    """Write them; the file's name, as it is typed."""
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)
