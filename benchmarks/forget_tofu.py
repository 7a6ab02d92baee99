"""The main job on memorised TOFU rows: what is forgotten, what is kept.

    python benchmarks/forget_tofu.py BASE TOFU --task 1 2 --precision nf4 fp32
    python benchmarks/forget_tofu.py BASE TOFU --task 1 2 3 --adds-up

BASE is the checkpoint that ../shared/tofu_smollm2/build_base.py writes, TOFU the folder of TOFU's JSON files.
For each task (40 questions to forget), the other memorised rows are the retain set (with --left-out, all but 40
of them, and these 40 are measured as held-out). One run a line; runs that are already in the results are left
out, so that an interrupted benchmark goes on. Writes docs/results/forget_tofu.md and data/forget_tofu.json; with
--adds-up, which takes the defaults of `asu-lora forget`, forget_tofu_adds_up.md and its data.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path

from asu_lora import ForgetConfig, forget
from asu_lora.adding_up import ADDS_UP
from asu_lora.cli.progress import Bars
from asu_lora.cli.quiet import quiet_libraries
from common.results import read_data, write_data, write_table
from common.tofu_request import MEMORISED_TASKS, request_for

BARS = (
    ("forget probability kept", 0.40, "at most"),
    ("forget ROUGE-L", 0.35, "at most"),
    ("retain probability kept", 0.90, "at least"),
    ("retain ROUGE-L kept", 0.85, "at least"),
    ("left-out probability kept", 0.70, "at least"),
)

HEADING = """# The main job on memorised TOFU rows, with {settings}

`python benchmarks/forget_tofu.py BASE TOFU --task 2 {flag}` and so on; 40 questions forgotten, the other 240
memorised rows kept (with --left-out, all but 40 of them, which are in neither set and are measured). 40 questions of
each set are measured. "kept" is after / before. One run a column; no GPU (an AMD EPYC with AVX512-BF16: NF4 computes
in bf16 there, on CPUs without such units in fp32). Every run of this command is here.

"""


def heading(adds_up: bool) -> str:
    """What stands above the table of the defaults, or of the settings of ``--adds-up``."""
    settings, flag = ("the defaults", "--adds-up") if adds_up else ("`--no-adds-up`", "--precision nf4")
    return HEADING.format(settings=settings, flag=flag)


def figures(result) -> dict[str, float]:
    """The figures that the bars are about."""
    before, after = result.before, result.after
    found = {
        "forget probability kept": after["forget_probability"] / before["forget_probability"],
        "forget ROUGE-L": after["forget_rouge"],
        "retain probability kept": after["retain_probability"] / before["retain_probability"],
        "retain ROUGE-L kept": after["retain_rouge"] / before["retain_rouge"],
    }
    if "heldout_probability" in before:
        found["left-out probability kept"] = after["heldout_probability"] / before["heldout_probability"]
        found["left-out ROUGE-L kept"] = after["heldout_rouge"] / before["heldout_rouge"]
    return (
        {name: round(value, 3) for name, value in found.items()}
        | {
            name: after[name]
            for name in ("forget_gibberish_rate", "forget_empty_answers", "forget_repetition", "retain_gibberish_rate")
        }
        | {"gibberish before": before["forget_gibberish_rate"]}
    )


def table(runs: list[dict]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run["figures"]))
    lines = [
        "| figure | wanted | "
        + " | ".join(
            f"task {r['task']}, {r['precision']}, seed {r['seed']}" + (", 40 left out" if r["left_out"] else "")
            for r in runs
        )
        + " |",
        "|---" * (len(runs) + 2) + "|",
    ]
    wanted = {name: f"{how} {bar:.2f}" for name, bar, how in BARS}
    for name in names:
        lines.append(
            f"| {name} | {wanted.get(name, '')} | "
            + " | ".join(str(run["figures"].get(name, "")) for run in runs)
            + " |"
        )
    for name in ("tau", "seconds", "peak GB"):
        lines.append(f"| {name} | | " + " | ".join(str(run[name]) for run in runs) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("tofu", type=Path)
    parser.add_argument("--task", nargs="+", default=["1"], choices=MEMORISED_TASKS)
    parser.add_argument("--precision", nargs="+", default=["nf4"])
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--left-out", action="store_true")
    parser.add_argument("--adds-up", action="store_true", help="the defaults of asu-lora forget")
    parser.add_argument("--store", type=Path, help="keep the adapters here")
    parser.add_argument("--answers", type=Path, help="write the answers to forget questions here, to be read")
    arguments = parser.parse_args()
    quiet_libraries()
    page = "forget_tofu_adds_up" if arguments.adds_up else "forget_tofu"
    recipe = dict(ADDS_UP) if arguments.adds_up else {}
    runs = read_data(page, [])
    for precision in arguments.precision:
        for task in arguments.task:
            for seed in arguments.seed:
                key = {"task": task, "precision": precision, "seed": seed, "left_out": arguments.left_out}
                if any(all(run[k] == v for k, v in key.items()) for run in runs):
                    continue
                request, held = request_for(arguments.tofu, task, arguments.left_out)
                with tempfile.TemporaryDirectory() as folder:
                    result = forget(
                        request,
                        str(arguments.base),
                        ForgetConfig(**({"precision": precision, "seed": seed} | recipe)),
                        name=f"task{task}-{precision}-{seed}",
                        store=arguments.store or folder,
                        heldout=held,
                        progress=Bars(),
                    )
                runs.append(
                    key
                    | {
                        "figures": figures(result),
                        "before": result.before,
                        "after": result.after,
                        "tau": result.record.tau.tau,
                        "seconds": round(result.record.seconds),
                        "train seconds": round(result.record.training["train_seconds"]),
                        "peak GB": round(result.record.peak_memory / 1e9, 2),
                        "machine": platform.machine(),
                        "compute": str(result.record.base.compute_dtype),
                    }
                )
                write_data(page, runs)
                write_table(page, heading(arguments.adds_up) + table(runs))
                if arguments.answers:
                    with arguments.answers.open("a") as out:
                        out.write(json.dumps(key) + "\n" + "\n".join(result.sets["forget"][1].answers) + "\n\n")
    print(table(runs))


if __name__ == "__main__":
    main()
