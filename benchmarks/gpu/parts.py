"""Large files in parts of at most 60 MiB and back, for a machine that takes no larger ones.

    python benchmarks/gpu/parts.py split BASE PARTS
    python benchmarks/gpu/parts.py join PARTS BASE

PARTS holds every file of the folder, cut where it is too large, and parts.json with each file's size and SHA-256:
what is put together again is checked against it.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path

MOST = 60 * 1024**2  # bytes of a part
BLOCK = 1024**2
LIST = "parts.json"


def split(folder: Path, parts: Path, most: int = MOST) -> dict[str, dict]:
    """Cut the folder's files into ``parts``; returns what parts.json says of each."""
    parts.mkdir(parents=True, exist_ok=True)
    told: dict[str, dict] = {}
    for file in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        digest, names, size = hashlib.sha256(), [], file.stat().st_size
        with file.open("rb") as source:
            for number in range(max(1, -(-size // most))):
                name = f"{file.name}.part-{number:03d}" if size > most else file.name
                names.append(name)
                with (parts / name).open("wb") as part:
                    left = most
                    while left and (block := source.read(min(BLOCK, left))):
                        digest.update(block)
                        part.write(block)
                        left -= len(block)
        told[file.name] = {"parts": names, "bytes": size, "sha256": digest.hexdigest()}
    (parts / LIST).write_text(json.dumps(told, indent=1) + "\n")
    return told


def join(parts: Path, folder: Path) -> Path:
    """Put the files together in ``folder``.

    Raises:
        ValueError: one is not what was cut, or a part is missing.
    """
    told = json.loads((parts / LIST).read_text())
    folder.mkdir(parents=True, exist_ok=True)
    for name, of in told.items():
        digest, file = hashlib.sha256(), folder / name
        with file.open("wb") as whole:
            for part in of["parts"]:
                if not (parts / part).is_file():
                    raise ValueError(f"{parts} lacks {part}, a part of {name}.")
                with (parts / part).open("rb") as source:
                    while block := source.read(BLOCK):
                        digest.update(block)
                        whole.write(block)
        if digest.hexdigest() != of["sha256"]:
            raise ValueError(f"{name} is not what was cut: its SHA-256 differs.")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["split", "join"])
    parser.add_argument("source", type=Path)
    parser.add_argument("to", type=Path)
    a = parser.parse_args()
    if a.what == "join":
        print(join(a.source, a.to))
        return
    shutil.rmtree(a.to, ignore_errors=True)
    for name, of in split(a.source, a.to).items():
        print(f"{name}: {of['bytes'] / 1e6:.1f} MB in {len(of['parts'])}")


if __name__ == "__main__":
    main()
