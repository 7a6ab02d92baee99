"""What it costs that a merge is on the disk before it takes its name: with fsync, without, and copying the files.

    python benchmarks/merge_fsync.py                # 1 GB, 5 rounds
    python benchmarks/merge_fsync.py --gb 0.3 --rounds 2

All in one process, in turn; what the one before left unwritten is written before the next begins.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common.merge_checkpoint import SHARD, build

CONTENDERS = ("copy", "merge without fsync", "merge")


def timed(job: Callable[[], object]) -> float:
    """Seconds that a job takes."""
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def work(contender: str, folder: Path) -> dict[str, float]:
    """Seconds of one run: until it returns, of that in fsync, and what ``sync`` takes after it."""
    from asu_lora.merging.checkpoint import staged_folder
    from asu_lora.merging.merge import merge

    real, flushing = staged_folder.fsync_tree, []
    staged_folder.fsync_tree = lambda path: flushing.append(timed(lambda: real(path) if contender == "merge" else None))
    try:
        if contender == "copy":
            returned = timed(lambda: shutil.copytree(folder / "base", folder / "out"))
        else:
            adapters = [(folder / "adapter", 1.0)]
            returned = timed(lambda: merge(folder / "base", adapters, folder / "out", "bf16", shard_size=SHARD))
    finally:
        staged_folder.fsync_tree = real
    return {"returns after": returned, "of it in fsync": sum(flushing), "sync after it": timed(os.sync)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0, help="size of the checkpoint")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory(dir=".") as place:
        folder = Path(place)
        build(folder, options.gb)
        size = sum(file.stat().st_size for file in (folder / "base").iterdir())
        for _ in range(options.rounds):
            for name in CONTENDERS:
                os.sync()
                found[name].append(work(name, folder))
                print(name, found[name][-1], file=sys.stderr, flush=True)
                shutil.rmtree(folder / "out")
    columns = list(found["copy"][0])
    print(f"| {size / 1e9:.2f} GB, s | {' | '.join(columns)} |\n|---|" + "---:|" * len(columns))
    for name, runs in found.items():
        cells = (f"{statistics.median(run[what] for run in runs):.2f}" for what in columns)
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
