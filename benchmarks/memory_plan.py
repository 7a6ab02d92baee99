"""The memory that ``asu-lora forget --dry-run`` expects against what the run then takes.

    python benchmarks/memory_plan.py BASE FORGET RETAIN [--setting "--precision fp32 --batch-size 4" ...]
    python benchmarks/memory_plan.py BASE FORGET RETAIN --device cuda --limit 12GB [--setting ...]

Each setting is planned and run by the command itself, in a process of its own, for a fraction of an epoch unless the
setting says otherwise. On a GPU, --limit lets torch have no more than a card of that size would have. Writes
docs/results/memory_plan.md and data/memory_plan.json (memory_plan_cuda of a GPU). Settings that are in the results
already are left out, so that an interrupted benchmark goes on; --replan plans these anew, seconds each, and measures
nothing. The planned peak should be within 15 % of the measured one.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from common.results import read_data, write_data, write_table

WITHIN = 0.15
SETTINGS = {
    "cpu": (
        "--precision nf4 --epochs 0.5 --eval-rows 8",
        "--precision fp32 --epochs 0.5 --eval-rows 8",
        "--precision nf4 --batch-size 8 --retain-per-forget 1 --epochs 0.5 --eval-rows 8",
        "--precision fp32 --batch-size 8 --retain-per-forget 1 --epochs 0.5 --eval-rows 8",
        "--precision nf4 --gradient-checkpointing --epochs 0.5 --eval-rows 8",
        "--precision nf4 --adapter-layers all --smooth-layers all --epochs 0.2 --eval-rows 8",
        "--epochs 3",
    ),
    "cuda": (
        "--epochs 1 --eval-rows 8",
        "--epochs 1 --eval-rows 8 --micro-batch-tokens 1024",
        "--epochs 1 --eval-rows 8 --gradient-checkpointing",
        "--epochs 1 --eval-rows 8 --adapter-layers all --smooth-layers all",
    ),
}
HEADING = {
    "cpu": """# The memory plan against the memory taken

`python benchmarks/memory_plan.py BASE FORGET RETAIN`, without a GPU: for each row the peak that
`asu-lora forget ... --dry-run` expects, and the largest resident set of the run, a process of its own (`--tau 3`
throughout: choosing tau takes no memory that the targets don't). It should be within 15 %.
""",
    "cuda": """# The memory plan against the memory taken, on a GPU

`python benchmarks/memory_plan.py BASE FORGET RETAIN --device cuda`: for each row the peak that
`asu-lora forget ... --dry-run` expects, and the run's own: what tensors held at most, and what torch's allocator had
taken from the card for them, both with the CUDA context (`--tau 3` throughout). It should be within 15 %.
""",
}


def command(base: str, forget: str, retain: str, device: str, setting: str, *more: str) -> list[str]:
    """The words of one ``asu-lora forget ... --json``."""
    return [
        "forget",
        forget,
        "--retain",
        retain,
        "--base",
        base,
        "--device",
        device,
        "--tau",
        "3",
        *setting.split(),
        "--json",
        *more,
    ]


def measured(words: list[str], device: str, limit: str | None) -> dict:
    """What a run of the command took, in this process, bytes."""
    import torch

    from asu_lora.cli import main
    from asu_lora.memory_plan.fit import parse_size

    context = 0
    if device != "cpu":
        torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)  # a context, and cuBLAS in it
        free, total = torch.cuda.mem_get_info()
        context = total - free - torch.cuda.memory_reserved()
        if limit:
            torch.cuda.set_per_process_memory_fraction((parse_size(limit) - context) / total)
    with tempfile.TemporaryDirectory() as store:
        main([*words, "--store", store], standalone_mode=False)
    if device == "cpu":
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "context": total - free - torch.cuda.memory_reserved(),
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "device": torch.cuda.get_device_name(),
    }


def started(*words: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)


def printed(process: subprocess.Popen) -> list[dict]:
    """The JSON objects a process prints, once it is done."""
    text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"It ended with {process.returncode}: {' '.join(process.args)}")
    found = []
    while text := text.strip():
        value, end = json.JSONDecoder().raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def planning(words: list[str]) -> subprocess.Popen:
    return started("-m", "asu_lora", *words, "--dry-run", "--store", "none")


def with_plan(run: dict, plan: dict) -> dict:
    return run | {"plan": plan, "ratio": round(plan["peak_bytes"] / run["measured_bytes"], 3)}


def plan_and_run(words: list[str], device: str, limit: str | None) -> dict:
    """The plan, the measured peak and their ratio."""
    planned = planning(words)
    planned.wait()
    running = started(__file__, "--measure", json.dumps([words, device, limit]))
    plan, (result, *taken) = printed(planned)[0]["memory"], printed(running)
    found = {
        "measured_bytes": result["peak_memory_bytes"],
        "seconds": round(result["seconds"]),
        "machine": platform.machine(),
    } | {key: value for part in taken for key, value in part.items()}
    if device != "cpu":
        found["measured_bytes"] = found["allocated"] + found["context"]
    return with_plan(found, plan)


def table(runs: list[dict], device: str) -> str:
    gpu = device != "cpu"
    names = [
        "base",
        "request",
        "settings",
        "planned, GB",
        "measured, GB",
        *(["with the allocator, GB"] if gpu else []),
        "planned / measured",
        "fullest phase",
    ]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for run in runs:
        cells = [
            run["base"],
            run["request"],
            f"`{run['settings']}`" + (f", {run['limit']}" if run["limit"] else ""),
            f"{run['plan']['peak_bytes'] / 1e9:.2f}",
            f"{run['measured_bytes'] / 1e9:.2f}",
            *([f"{(run['reserved'] + run['context']) / 1e9:.2f}"] if gpu else []),
            f"{run['ratio']:.2f}",
            run["plan"]["peak_phase"],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "forget", "retain"):
        parser.add_argument(name, nargs="?")
    parser.add_argument("--setting", action="append", help="options of asu-lora forget, in one string")
    parser.add_argument("--device", choices=SETTINGS, default="cpu")
    parser.add_argument("--limit", help="memory of the card that the GPU stands for, such as 12GB")
    parser.add_argument("--replan", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measured(*json.loads(arguments.measure))))
        return
    if arguments.retain is None:
        parser.error("BASE, FORGET and RETAIN are missing")
    device = arguments.device
    stem = "memory_plan" + ("" if device == "cpu" else f"_{device}")
    runs = read_data(stem, [])
    for setting in arguments.setting or SETTINGS[device]:
        key = {
            "base": Path(arguments.base).name,
            "request": Path(arguments.forget).stem,
            "settings": setting.strip(),
            "limit": arguments.limit,
        }
        words = command(arguments.base, arguments.forget, arguments.retain, device, setting)
        done = [at for at, run in enumerate(runs) if all(run.get(name) == value for name, value in key.items())]
        if done and not arguments.replan:
            continue
        if done:
            runs[done[0]] = with_plan(runs[done[0]], printed(planning(words))[0]["memory"])
        elif not arguments.replan:
            runs.append(key | plan_and_run(words, device, arguments.limit))
        write_data(stem, runs)
        write_table(stem, HEADING[device] + "\n" + table(runs, device))
    for run in runs:
        print(f"{run['ratio']:.2f}  {run['settings']}" + ("" if abs(run["ratio"] - 1) <= WITHIN else "  (missed)"))


if __name__ == "__main__":
    main()
