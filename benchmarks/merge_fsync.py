"""What it costs that a merge is on the disk before it takes its name: with fsync, without, and copying the files.

    python benchmarks/merge_fsync.py                # 1 GB, 5 rounds
    python benchmarks/merge_fsync.py --gb 0.3 --rounds 2

Each round runs each contender in a fresh process, in turn; what the one before left unwritten is written first.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common.merge_checkpoint import SHARD, build

CONTENDERS = ("copy", "merge without fsync", "merge")


def work(contender: str, folder: Path) -> dict[str, float]:
    """Seconds of one run: until it returns, and until ``sync`` says that all of it is on the disk."""
    import transformers.models.llama.modeling_llama  # noqa: F401

    from asu_lora.merging.checkpoint import staged_folder
    from asu_lora.merging.merge import merge

    if contender == "merge without fsync":
        staged_folder.fsync_tree = staged_folder.fsync_path = lambda path: None
    started = time.perf_counter()
    if contender == "copy":
        shutil.copytree(folder / "base", folder / "out")
    else:
        merge(folder / "base", [(folder / "adapter", 1.0)], folder / "out", "bf16", shard_size=SHARD)
    returned = time.perf_counter() - started
    os.sync()
    return {"returned": returned, "on disk": time.perf_counter() - started}


def measure(folder: Path, rounds: int) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        for name in CONTENDERS:
            os.sync()
            done = subprocess.run(
                [sys.executable, __file__, "--child", name, str(folder)], capture_output=True, text=True, check=True
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {number + 1}: {name}: {found[name][-1]}", file=sys.stderr, flush=True)
            shutil.rmtree(folder / "out")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0, help="size of the checkpoint")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(work(options.child[0], Path(options.child[1]))))
        return
    with tempfile.TemporaryDirectory(dir=".") as place:
        build(Path(place), options.gb)
        size = sum(file.stat().st_size for file in (Path(place) / "base").iterdir())
        found = measure(Path(place), options.rounds)
    print(f"| {size / 1e9:.2f} GB | returns after, s | on disk after, s |\n|---|---:|---:|")
    for name, runs in found.items():
        told = (statistics.median(run[what] for run in runs) for what in ("returned", "on disk"))
        print(f"| {name} | {' | '.join(f'{seconds:.2f}' for seconds in told)} |")


if __name__ == "__main__":
    main()
