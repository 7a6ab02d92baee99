"""What a step of ASU costs: against plain QLoRA on the same tokens, and against the straightforward way.

    python benchmarks/step_cost.py BASE TOFU

Time: medians of alternating steps in one process. Memory: one process a kind of step, its peak above the loaded
base. Cache: medians, alternating with the forward passes of an epoch of the same rows in batches of 8 + 8, all warm
(kernels compiled, the entry and the smoothing tried out: that is done once a run, however many rows it has). Losses:
the first steps of ASU and of the straightforward way from one adapter, in fp32. Writes docs/results/step_cost.md
and data/step_cost.json.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from asu_lora import ForgetConfig
from asu_lora.models.hidden_states import hidden_states
from common.results import write_data, write_table
from common.training_steps import TAU, Workload, peak_memory, settled, timed

KINDS = ("asu", "asu, few rows", "plain", "plain, all layers", "straightforward")
FEW_ROWS = ("asu, few rows", "straightforward")  # 4 + 4, unless --few says otherwise
SETTINGS = {"plain, all layers": ForgetConfig(adapter_layers="all")}


def times(base: str, tofu: Path, rounds: int, slow_rounds: int, *, precision: str, device: str, few: int) -> dict:
    """Median seconds of a step of every kind, 8 + 8 rows or, of FEW_ROWS, fewer; and of the cache."""
    made = {}
    work = Workload(base, tofu, precision, device=device)
    work.cache()
    found: dict = {}
    for kind in KINDS:
        work.config = SETTINGS.get(kind, ForgetConfig())
        peft, optimizer = work.student()
        step = step_of(work, kind, peft, few)
        seconds = []
        for turn in range(1 + (slow_rounds if kind == "straightforward" else rounds)):
            taken, _ = timed(step, optimizer)
            seconds.append(taken)
            print(f"{kind}, step {turn}: {taken:.2f} s", flush=True)
        made[kind] = seconds[1:]  # the first step of a shape compiles its kernels
        peft.unload()
    found["seconds"] = {kind: median(values) for kind, values in made.items()}
    found["runs"] = made
    return found


def step_of(work: Workload, kind: str, peft, few: int) -> Callable[[], torch.Tensor]:
    make = getattr(work, kind.split(",")[0])
    return make(peft, work.pairs[:few]) if kind in FEW_ROWS else make(peft)


def cache_costs(base: str, tofu: Path, precision: str, device: str, rows: int = 40, rounds: int = 5) -> dict:
    """Median seconds of the cache, with and without ``keep_speaking``, and of the forward passes of an epoch over the
    same rows: as plain QLoRA training makes them, as it would without gradients, and these without the head."""
    work = Workload(base, tofu, precision, rows, rows, device=device)
    work.cache()  # tries out the entry and the smoothing
    peft, _ = work.student()
    epoch = [work.plain(peft, work.pairs[at : at + 8], backward=False) for at in range(0, rows, 8)]

    def training() -> None:
        peft.base_model.enable_adapter_layers()
        for step in epoch:
            step()
        peft.base_model.disable_adapter_layers()

    @torch.no_grad()
    def without_gradients() -> None:
        for step in epoch:
            step()

    peft.base_model.disable_adapter_layers()
    kinds = {
        "forward passes, no head": lambda: hidden_states(work.model, work.items, work.pad_id),
        "forward passes": without_gradients,
        "forward passes of training": training,
        "cache, no keep_speaking": lambda: work.cache(False),
        "cache": lambda: work.cache(True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(rounds + 1):
        for name, run in kinds.items():
            settled()
            began = time.perf_counter()
            run()
            settled()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {
        "rows": 2 * rows,
        "tokens": sum(map(len, work.items)),
        "runs": seconds,
        **{name: median(taken) for name, taken in seconds.items()},
    }


def alternating(base: str, tofu: Path, rounds: int, precision: str, device: str) -> dict:
    """asu and plain, one step in turn, ``rounds`` times: two adapters on one base, one active at a time."""
    work = Workload(base, tofu, precision, device=device)
    work.cache()
    seconds: dict[str, list[float]] = {"asu": [], "plain": []}
    for turn in range(rounds + 1):
        for kind in seconds:
            peft, optimizer = work.student()
            taken = [timed(getattr(work, kind)(peft), optimizer)[0] for _ in range(2)]
            peft.unload()
            if turn:
                seconds[kind].append(taken[1])
                print(f"alternating, {kind}: {taken[1]:.2f} s", flush=True)
    ratios = [a / b for a, b in zip(seconds["asu"], seconds["plain"], strict=True)]
    return {"seconds": seconds, "ratio": median(ratios)}


def peak(base: str, tofu: Path, kind: str, precision: str, device: str, few: int) -> dict:
    """Peak bytes above the loaded base over three steps of one kind, cache, adapter and optimizer included."""
    work = Workload(base, tofu, precision, config=SETTINGS.get(kind), device=device)
    if kind.startswith("asu"):
        work.cache()
    peft, optimizer = work.student()
    step = step_of(work, kind, peft, few)
    for _ in range(3 if kind != "straightforward" else 1):
        timed(step, optimizer)
    return {"above": peak_memory(work.device) - work.loaded, "loaded": work.loaded}


def equal_losses(base: str, tofu: Path, steps: int, device: str, few: int) -> list[tuple[float, float]]:
    """(ours, straightforward) losses of the first steps, fp32, the same few rows and adapter."""
    work = Workload(base, tofu, "fp32", few, few, config=ForgetConfig(keep_speaking=False), device=device)
    found = []
    for kind in ("asu", "straightforward"):
        if kind == "asu":
            work.cache()
        peft, optimizer = work.student()
        step = getattr(work, kind)(peft)
        found.append([timed(step, optimizer)[1] for _ in range(steps)])
        peft.unload()
    return list(zip(*found, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("tofu", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow-rounds", type=int, default=2, help="of the straightforward way, a minute each")
    parser.add_argument("--precision", default="nf4")
    parser.add_argument(
        "--few",
        type=int,
        default=4,
        help="forget rows, and as many retain rows, of the straightforward way and of the ASU step beside it",
    )
    parser.add_argument("--loss-steps", type=int, default=3, help="compared in fp32; 0 for a base stored in 4 bits")
    parser.add_argument("--device", default="cpu", help="cuda for the same table on a GPU")
    parser.add_argument("--name", default="step_cost", help="of the files in docs/results")
    parser.add_argument("--peak", choices=KINDS, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.peak:
        print(json.dumps(peak(a.base, a.tofu, a.peak, a.precision, a.device, a.few)))
        return
    found = {"cache": cache_costs(a.base, a.tofu, a.precision, a.device, rounds=a.rounds)}
    print(found["cache"], flush=True)
    found |= times(a.base, a.tofu, a.rounds, a.slow_rounds, precision=a.precision, device=a.device, few=a.few)
    found["alternating"] = alternating(a.base, a.tofu, a.rounds, a.precision, a.device)
    found["peak"] = {}
    for kind in KINDS:
        out = subprocess.run(
            [
                sys.executable,
                __file__,
                a.base,
                str(a.tofu),
                "--peak",
                kind,
                "--precision",
                a.precision,
                "--device",
                a.device,
                "--few",
                str(a.few),
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        found["peak"][kind] = json.loads(out.splitlines()[-1])
        print(kind, found["peak"][kind], flush=True)
    found["losses"] = equal_losses(a.base, a.tofu, a.loss_steps, a.device, a.few) if a.loss_steps else []
    found["precision"], found["few"] = a.precision, a.few
    name = torch.cuda.get_device_name() if a.device.startswith("cuda") else a.device
    found["machine"] = {
        "device": name,
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    write_data(a.name, found)
    write_table(a.name, table(found, a.name))
    print(table(found, a.name))


def options(found: dict) -> str:
    """What to type for these settings again."""
    device = "" if found["machine"]["device"] == "cpu" else " --device cuda"
    return (
        device
        + (f" --precision {found['precision']}" if found["precision"] != "nf4" else "")
        + (f" --few {found['few']}" if found["few"] != 4 else "")
    )


def table(found: dict, name: str) -> str:
    which = name.removeprefix("step_cost").strip("_")
    seconds, peaks = found["seconds"], {k: v["above"] for k, v in found["peak"].items()}
    rows = {kind: 2 * found["few"] if kind in FEW_ROWS else 16 for kind in KINDS}
    cache, few = found["cache"], f"{found['few']} + {found['few']}"
    lines = [
        "# What a training step costs" + (f": {which}" if which else ""),
        "",
        f"`python benchmarks/step_cost.py BASE TOFU{options(found)}`: {found['machine']['device']}, "
        f"{found['machine']['threads']} threads, "
        f"{found['precision']}, rank 8, tau {TAU:g}, 8 forget and 8 retain rows a step (few: {few}, as the "
        "straightforward way's). Memory is the peak above the loaded base, of a process of its own.",
        "",
        "| step | seconds | seconds a row | peak above the base, GB |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {kind} | {seconds[kind]:.2f} | {seconds[kind] / rows[kind]:.3f} | {peaks[kind] / 1e9:.2f} |"
        for kind in KINDS
    ]
    per_row = (seconds["straightforward"] / rows["straightforward"]) / (seconds["asu"] / 16)
    worst = max((abs(ours - theirs) for ours, theirs in found["losses"]), default=float("nan"))
    lines += [
        "",
        "| figure | wanted | seen |",
        "|---|---|---|",
        f"| ASU / plain QLoRA, time, {len(found['alternating']['seconds']['asu'])} alternating steps | at most "
        f"1.10 | {found['alternating']['ratio']:.2f} |",
        f"| straightforward / ASU, time a row | at least 10 | {per_row:.1f} |",
        f"| straightforward / ASU, peak memory | at least 8 | {peaks['straightforward'] / peaks['asu']:.1f} |",
        f"| straightforward / ASU, peak memory, both {few} rows | at least 8 | "
        f"{peaks['straightforward'] / peaks['asu, few rows']:.1f} |",
        f"| straightforward / ASU, peak memory a row | at least 8 | "
        f"{(peaks['straightforward'] / rows['straightforward']) / (peaks['asu'] / 16):.1f} |",
        f"| ASU / plain QLoRA, peak memory | at most 1.05 | {peaks['asu'] / peaks['plain']:.2f} |",
        f"| largest difference of losses, fp32, {len(found['losses'])} steps | below 1e-4 | {worst:.1e} |",
    ] + [
        f"| {name} / an epoch's forward passes of the same {cache['rows']} rows, {what} | at most 1 | "
        f"{cache[name] / cache[passes]:.2f} ({cache[name]:.2f} s / {cache[passes]:.2f} s) |"
        for name in ("cache", "cache, no keep_speaking")
        for passes, what in (
            ("forward passes of training", "as plain QLoRA trains"),
            ("forward passes", "the plain base's, without gradients"),
            ("forward passes, no head", "the plain base's, without gradients, logits or loss"),
        )
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
