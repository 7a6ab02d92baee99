"""Everything that a card can tell in ten minutes, without a network.

    make gpu OUT=build/gpu BASE=FOLDER TOFU=FOLDER          (or PARTS=FOLDER, see benchmarks/gpu/parts.py)
    python benchmarks/gpu/run.py --device cuda --minutes 9 --out build/gpu --base BASE --tofu TOFU
    python benchmarks/gpu/run.py --device cpu --tiny --minutes 3 --out build/gpu

BASE is the 135M base that has memorised TOFU rows (`build_base.py`); without one, a tiny base of random weights stands
there. TOFU has TOFU's JSON files; without them, the demo's rows are used. The 8B shape is made on the card, of random
weights in NF4. Writes gpu.json and gpu.md after every part, so that a run that is cut off leaves what it has; the short
table is the last thing that it prints. A part that fails, or for which no time is left, is said and left out.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from asu_lora.data.request import ForgetRequest
from asu_lora.version import library_versions
from common.shaped_base import save as save_shape
from common.tiny_base import save_tiny_base
from common.tofu_request import request_for
from common.training_steps import TAU, Workload
from gpu.measures import equality, generation, memory, peak_flops, step_times, switches, whole_job
from gpu.parts import join
from gpu.record import Record, short_table


def main() -> None:
    a = arguments()
    record = Record(a.out, a.minutes)
    with tempfile.TemporaryDirectory() as scratch:
        run(a, record, Path(scratch))
    print(f"\n{a.out}/gpu.json and gpu.md, {(time.monotonic() - record.started) / 60:.1f} minutes.\n")
    print(short_table(record.found["parts"].get("steps") or []), flush=True)


def run(a: argparse.Namespace, record: Record, scratch: Path) -> None:
    """The parts, the most wanted first."""
    cuda = a.device.startswith("cuda")
    record.part("machine", lambda: machine(a.device))
    base = record.part("base", lambda: str(base_of(a, scratch)))
    tofu, own = (a.tofu, True) if a.tofu else (demo_rows(scratch / "rows"), False)
    if base is None:
        return
    rows = 2 if a.tiny else 8
    peak = record.part("peak", lambda: peak_flops(a.device, 512 if a.tiny or not cuda else 8192, 0.2 if a.tiny else 2))
    tflops = peak and peak["tflops"]
    record.part("equality", lambda: equality(base, tofu, a.device, 2), needs=20)
    steps: list[dict[str, Any]] = record.found["parts"].setdefault("steps", [])

    def told(step: dict[str, Any]) -> None:
        steps.append(step)
        record.write()
        print(
            f"  {step['shape']}, {step['step']}, {step['how']}, {step['rows']} rows: {step['seconds']:.4f} s",
            flush=True,
        )

    rounds, slow = (2, 1) if a.tiny else (7, 3)

    def times(where: str, shape: str) -> dict[str, Any]:
        work = Workload(where, tofu, a.precision, rows, rows, device=a.device)
        work.cache()
        step_times(work, shape, rounds, slow, tflops, told)
        return {"switches": ", ".join(switches()) or "none in this version"}

    shape = "llama-3.1-8b" if cuda else "tiny"
    if not a.tiny:
        shaped = scratch / "shape"
        record.part(f"steps, {shape} shape", lambda: times(str(save_shape(base, shaped, shape)), shape), needs=60)
    given = a.base or a.parts
    record.part("steps, the base", lambda: times(base, given.name if given else "tiny base"), needs=30)
    request = request_for(a.tofu, a.task, False)[0] if own else demo_request()
    quick: dict[str, Any] = {"epochs": 0.5, "eval_rows": 1, "own_words": 0.0} if a.tiny else {}
    if not given:  # random weights know no facts, and no tau makes them forget any
        quick["tau"] = TAU
    record.part(
        "forget_tofu" if own else "whole job",
        lambda: whole_job(base, request, a.device, a.precision, **quick),
        needs=20 if a.tiny else 60,
    )
    record.part("memory", lambda: memory(base, tofu, a.device, a.precision, rows), needs=20)
    if (scratch / "shape" / "config.json").is_file() and cuda:
        record.part(
            "memory, shape", lambda: memory(str(scratch / "shape"), tofu, a.device, a.precision, rows), needs=45
        )
    many = (4, 8) if a.tiny else (80, 128)
    record.part("generation", lambda: generation(base, a.device, a.precision, *many), needs=20)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which no part is begun any more")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--base", type=Path, help="a checkpoint; a tiny one is made without it")
    parser.add_argument("--parts", type=Path, help="the same, cut by benchmarks/gpu/parts.py")
    parser.add_argument("--tofu", type=Path, help="TOFU's JSON files; the demo's rows without it")
    parser.add_argument("--task", default="2", help="of TOFU's forget01")
    parser.add_argument("--precision", default="nf4")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes and few steps: try the script out")
    return parser.parse_args()


def machine(device: str) -> dict[str, str]:
    """What it runs on."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return {
        "device": name,
        "threads": str(torch.get_num_threads()),
        "system": platform.platform(),
        **library_versions(),
    }


def base_of(a: argparse.Namespace, scratch: Path) -> Path:
    """The base: given, put together from parts, or a tiny one."""
    if a.parts:
        return join(a.parts, scratch / "base")
    return a.base or save_tiny_base(scratch / "base")


def demo_rows(folder: Path) -> Path:
    """The demo's rows under the names of TOFU's files."""
    folder.mkdir(parents=True)
    for name, file in (("forget01", "forget"), ("retain_perturbed", "retain")):
        lines = (resources.files("asu_lora.demo") / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
        (folder / f"{name}.json").write_text("\n".join(json.dumps(json.loads(line)) for line in lines if line) + "\n")
    return folder


def demo_request() -> ForgetRequest:
    """The demo's request."""
    files = resources.files("asu_lora.demo")
    return ForgetRequest.from_files(str(files / "forget.jsonl"), str(files / "retain.jsonl"))


if __name__ == "__main__":
    main()
