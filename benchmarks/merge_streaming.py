"""Memory and time of merging a checkpoint: ours, PEFT's merge_and_unload, and the copying of the files.

    python benchmarks/merge_streaming.py            # 4 GB, writes docs/results/merge_streaming.md
    python benchmarks/merge_streaming.py --gb 0.4 --out /tmp/results

Builds a sharded bf16 checkpoint (SmolLM2-1.7B's config with as many layers as fit, random weights) and a
rank-8 LoRA on all its linear layers, then runs each contender several times, in turn, each time in a fresh
process. Peak memory is the process's VmHWM; time is that of the work itself, imports excluded, and until all of
it is on the disk (all are written down).
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common.merge_checkpoint import GB, SHARD, build
from common.results import RESULTS, write_data, write_table

CONTENDERS = ("import torch", "copy", "asu-lora merge", "PEFT merge_and_unload")


# ---- what runs in processes of its own


def work(contender: str, folder: Path) -> dict:
    """One run; returns seconds of the work and the peak memory of this process in bytes."""
    out = folder / "out"
    if contender == "import torch":
        import torch

        def job():
            pass
    elif contender == "copy":

        def job():
            shutil.copytree(folder / "base", out)
    elif contender == "asu-lora merge":
        import transformers.models.llama.modeling_llama

        from asu_lora.merging.merge import merge
        from asu_lora.merging.row_workers import compiled_bf16

        compiled_bf16()

        def job():
            merge(folder / "base", [(folder / "adapter", 1.0)], out, "bf16", shard_size=SHARD)
    else:
        import torch
        import transformers.models.llama.modeling_llama  # noqa: F401
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        def job():
            model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
            model = PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload()
            model.save_pretrained(out, max_shard_size=SHARD)

    started = time.perf_counter()
    job()
    seconds = time.perf_counter() - started
    os.sync()
    on_disk = time.perf_counter() - started
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in status if line.startswith("VmHWM"))
    return {"seconds": seconds, "on_disk_seconds": on_disk, "peak_bytes": int(peak.split()[1]) * 1024}


def compare(folder: Path) -> dict:
    """The two merged checkpoints must hold the same weights, to a step of bf16."""
    import torch
    from safetensors import safe_open

    def tensors(which: str):
        return {
            name: file
            for file in sorted((folder / which).glob("*.safetensors"))
            for name in safe_open(file, framework="pt").keys()  # noqa: SIM118 (it is no dictionary)
        }

    ours, theirs = tensors("ours"), tensors("theirs")
    assert ours.keys() == theirs.keys()
    differing = total = 0
    worst = 0.0
    for name in ours:
        with safe_open(ours[name], "pt") as one, safe_open(theirs[name], "pt") as other:
            a, b = one.get_tensor(name), other.get_tensor(name)
        differing += (a != b).sum().item()
        total += a.numel()
        gap = (a.float() - b.float()).abs() / b.float().abs().clamp(min=1e-4)
        worst = max(worst, gap.max().item())
        assert torch.isfinite(a).all()
    return {"differing_share": differing / total, "largest_relative_gap": worst}


# ---- the parent, which imports nothing heavy


def child(*arguments: str) -> dict:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--child", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1]) | {"process_seconds": time.perf_counter() - started}


def measure(folder: Path, runs: int) -> dict[str, list[dict]]:
    results: dict[str, list[dict]] = {name: [] for name in CONTENDERS}
    for run in range(runs):
        for contender in CONTENDERS:
            os.sync()  # what the run before left to be written is not this one's to pay for
            results[contender].append(child("work", contender, str(folder)))
            print(
                f"run {run + 1}: {contender}: {results[contender][-1]['seconds']:.2f} s, "
                f"{results[contender][-1]['peak_bytes'] / GB:.2f} GB",
                file=sys.stderr,
            )
            keep = {"asu-lora merge": "ours", "PEFT merge_and_unload": "theirs"}.get(contender)
            if run == runs - 1 and keep:
                (folder / "out").rename(folder / keep)
            shutil.rmtree(folder / "out", ignore_errors=True)
    return results


def summary(results: dict[str, list[dict]], size: int, comparison: dict, runs: int) -> dict:
    rows = {}
    floor = statistics.median(r["peak_bytes"] for r in results["import torch"])
    copying, copying_to_disk = (
        statistics.median(r[what] for r in results["copy"]) for what in ("seconds", "on_disk_seconds")
    )
    for name, runs_of_it in results.items():
        seconds = statistics.median(r["seconds"] for r in runs_of_it)
        on_disk = statistics.median(r["on_disk_seconds"] for r in runs_of_it)
        peak = statistics.median(r["peak_bytes"] for r in runs_of_it)
        process = statistics.median(r["process_seconds"] for r in runs_of_it)
        rows[name] = {
            "seconds": seconds,
            "process_seconds": process,
            "times_copying": seconds / copying,
            "on_disk_seconds": on_disk,
            "on_disk_times_copying": on_disk / copying_to_disk,
            "peak_gb": peak / GB,
            "above_torch_gb": (peak - floor) / GB,
        }
    return {
        "checkpoint_gb": size / GB,
        "runs": runs,
        "median": rows,
        "all_runs": results,
        "comparison": comparison,
        "machine": {
            "cpus": os.cpu_count(),
            "processor": platform.machine(),
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        },
    }


def markdown(report: dict, command: str) -> str:
    lines = [
        "# Merging an adapter into a checkpoint: memory and time",
        "",
        f"A synthetic bf16 checkpoint of {report['checkpoint_gb']:.2f} GB (SmolLM2-1.7B's config, random "
        f"weights, shards of 1 GB), a LoRA of rank 8 on all linear layers, merged to bf16. Medians of "
        f"{report['runs']} runs in turn, each in a fresh process, the base in the page cache; on disk: "
        f"until `sync` says that everything is written. "
        f"{report['machine']['cpus']} CPUs, threads: {report['machine']['threads']}. `{command}`",
        "",
        "| | time, s | times copying | on disk, s | times copying | whole process, s | peak memory, GB | above "
        "`import torch`, GB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in report["median"].items():
        work = name != "import torch"
        lines.append(
            f"| {name} | {row['seconds']:.2f} | {row['times_copying']:.2f} | {row['on_disk_seconds']:.2f} | "
            f"{row['on_disk_times_copying']:.2f} | "
            * work
            + f"| {name} | - | - | - | - | " * (not work)
            + f"{row['process_seconds']:.2f} | {row['peak_gb']:.2f} | {row['above_torch_gb']:.2f} |"
        )
    gap = report["comparison"]
    lines += [
        "",
        f"Ours and PEFT's weights differ in {gap['differing_share']:.2%} of the entries, by "
        f"{gap['largest_relative_gap']:.2%} of the entry at most (one adapter: PEFT rounds once too).",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=4.0, help="size of the checkpoint")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, help="where to build the checkpoint; else a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as scratch:
        folder = Path(scratch)
        child("build", str(folder), str(options.gb))
        size = sum(path.stat().st_size for path in (folder / "base").iterdir())
        results = measure(folder, options.runs)
        report = summary(results, size, child("compare", str(folder)), options.runs)
    command = f"python benchmarks/merge_streaming.py --gb {options.gb:g} --runs {options.runs}"
    write_data("merge_streaming", report | {"command": command}, options.out)
    write_table("merge_streaming", markdown(report, command), options.out)
    print(markdown(report, command))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        task, *rest = sys.argv[2:]
        if task == "build":
            build(Path(rest[0]), float(rest[1]))
            result = {}
        elif task == "work":
            result = work(rest[0], Path(rest[1]))
        else:
            result = compare(Path(rest[0]))
        print(json.dumps(result))
    else:
        main()
