"""The two retain losses that stay close to the base, `kl` and `kl-answers`, on the same request, seed and teacher.

    python benchmarks/retain_losses.py BASE TOFU --task 1 --questions 20

BASE is the checkpoint that ../shared/tofu_smollm2/build_base.py writes, TOFU the folder of TOFU's JSON files. The first
questions of the task are forgotten, 200 memorised rows kept, and 40 are in neither set. Steps of 2 forget and 4 retain
rows, 50 of them by default; all else as `asu-lora forget` has it. What stands in the results is not run again. Writes
docs/results/retain_losses.md and data/retain_losses.json.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from asu_lora import ForgetConfig, forget
from asu_lora.cli.progress import Bars
from asu_lora.cli.quiet import quiet_libraries
from common.before_after import before_after_table
from common.results import read_data, write_data, write_table
from common.tofu_request import MEMORISED_TASKS, request_for

HEADING = "# Staying close to the base: at every position, or in the answers\n\n"
LOSSES, BATCH = ("kl-answers", "kl"), 2


def run(base: Path, tofu: Path, key: dict) -> dict:
    """The figures of one loss."""
    request, held = request_for(tofu, key["task"], left_out=True)
    request = replace(request, forget=request.forget[: key["questions"]])
    config = ForgetConfig(
        retain_loss=key["loss"],
        seed=key["seed"],
        batch_size=BATCH,
        epochs=key["steps"] * BATCH / key["questions"],
        eval_rows=key["measured"],
    )
    with tempfile.TemporaryDirectory() as store:
        result = forget(request, str(base), config, name="run", store=store, heldout=held, progress=Bars())
    before, after = result.before, result.after
    return key | {
        "figures": {
            f"{name} {what}": [before[f"{of}_{metric}"], after[f"{of}_{metric}"]]
            for name, of in (("forget", "forget"), ("kept", "retain"), ("left-out", "heldout"))
            for what, metric in (("probability", "probability"), ("ROUGE-L", "rouge"), ("gibberish", "gibberish_rate"))
            if f"{of}_{metric}" in after
        },
        "tau": result.record.tau.tau,
        "training seconds": round(result.record.training["train_seconds"]),
        "peak GB": round(result.record.peak_memory / 1e9, 2),
    }


def table(runs: list[dict]) -> str:
    heads = [f"`{each['loss']}`, task {each['task']}, seed {each['seed']}" for each in runs]
    return before_after_table(runs, heads, ("tau", "training seconds", "peak GB"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("tofu", type=Path)
    parser.add_argument("--task", default="1", choices=MEMORISED_TASKS)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--measured", type=int, default=16, help="questions of each set before and after")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quiet_libraries()
    shared = {name: getattr(arguments, name) for name in ("task", "questions", "steps", "measured", "seed")}
    runs = read_data("retain_losses", [])
    for loss in LOSSES:
        key = {"loss": loss} | shared
        if not any(all(each.get(name) == value for name, value in key.items()) for each in runs):
            runs.append(run(arguments.base, arguments.tofu, key))
            write_data("retain_losses", runs)
            command = " ".join(f"--{name} {value}" for name, value in shared.items())
            said = f"`python benchmarks/retain_losses.py BASE TOFU {command}`: each figure before and after."
            write_table("retain_losses", f"{HEADING}{said}\n\n{table(runs)}")
    print(table(runs))


if __name__ == "__main__":
    main()
