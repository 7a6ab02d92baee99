"""The commands of docs/tutorial.md, as they are printed there."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
SERVED_WRONGLY = 3  # TGI would leave the tutorial's adapter out, and 'adapters check --serves' says so


def commands() -> list[str]:
    """A line each, here-documents with their lines."""
    found: list[str] = []
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        if kind != "sh":
            continue
        document = False
        for line in block.splitlines():
            if document:
                found[-1] += f"\n{line}"
                document = line != "END"
            else:
                found.append(line)
                document = line.endswith("<<'END'")
    return found


def expected_exit(command: str) -> int:
    return SERVED_WRONGLY if "--serves" in command else 0


def run_all(folder: Path, columns: int) -> Iterator[tuple[str, subprocess.CompletedProcess[str]]]:
    """Run each in a shell, in ``folder``, with the program of this Python and a terminal so wide."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ASU_LORA_ST")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": str(columns),
    }
    for command in commands():
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        yield command, done
