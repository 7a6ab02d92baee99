"""The whole job from a command's view: seconds by part, core-seconds, and how much is forgotten and kept.

    python benchmarks/whole_job.py BASE TOFU --task 3 --settings stop_early=true --work FOLDER

40 questions of a TOFU task, the other 240 memorised rows kept, as `forget_tofu.py` asks them. A run that is cut off
goes on from its last whole epoch when the command is given again; its seconds are then those of the last start, and
that is said. --epochs-seen prints what stopping early is judged by, an epoch a line. Adds to
docs/results/data/whole_job.json and writes docs/results/whole_job.md above its notes.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import torch
import yaml
from forget_tofu import BARS, figures

from asu_lora import forget
from asu_lora.adding_up import ADDS_UP
from asu_lora.cli.progress import Bars
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.config_mapping import config_from
from asu_lora.forgetting.run_folder import RUNS
from asu_lora.training.stop_early import StopEarly
from common.results import read_data, write_data, write_table
from common.tofu_request import MEMORISED_TASKS, request_for

HEADING = """# The whole job: 40 questions, from the command to the adapter

`python benchmarks/whole_job.py BASE TOFU --task T --settings ...`, one run a row. "core s" is user and system time of
the process: on a shared machine it says more than the clock.

"""


def table(runs: list[dict]) -> str:
    """A row a run: settings, seconds, the bars."""
    names = [name for name, *_ in BARS if any(name in run["figures"] for run in runs)]
    head = ["task", "settings", "threads", "s", "core s", "training s", "steps", *names, "gibberish"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for run in runs:
        cells = [run["task"], run["settings"] or "the defaults", run["threads"], run["seconds"], run["core seconds"]]
        cells += [run["training seconds"], run["steps"], *(run["figures"].get(name, "") for name in names)]
        cells.append(run["figures"]["forget_gibberish_rate"])
        lines.append("| " + " | ".join(map(str, cells)) + (" (gone on with)" if run["resumed"] else "") + " |")
    lines += ["", "## Where the seconds went", ""]
    parts = list(dict.fromkeys(part for run in runs for part in run["profile"]))
    lines += [
        "| part |" + "".join(f" task {run['task']}, {run['date']} |" for run in runs),
        "|---" + "|---:" * len(runs) + "|",
    ]
    lines += [f"| {part} |" + "".join(f" {run['profile'].get(part, '')} |" for run in runs) for part in parts]
    return "\n".join(lines) + "\n"


def seen_by(heard: list[list]) -> None:
    """Keep what stopping early is judged by."""
    judge = StopEarly.on_epoch_end

    def on_epoch_end(self, *args, **kwargs):
        judge(self, *args, **kwargs)
        last = self.epochs[-1]
        heard.append([round(last.forget_kept, 4), round(last.retain_loss or 0.0, 4)])
        print(f"epoch {len(self.epochs)}: {heard[-1]}", flush=True)

    StopEarly.on_epoch_end = on_epoch_end  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("tofu", type=Path)
    parser.add_argument("--task", default="3", choices=MEMORISED_TASKS)
    parser.add_argument("--settings", default="", help="NAME=VALUE,... of forget")
    parser.add_argument("--work", type=Path, help="keep unfinished runs here, to go on with")
    parser.add_argument("--epochs-seen", action="store_true", help="print what stopping early is judged by")
    a = parser.parse_args()
    quiet_libraries()
    given = {n: yaml.safe_load(v) for n, v in (s.split("=") for s in a.settings.split(",") if s)}
    config = config_from({**ADDS_UP, **given}, "--settings")
    request, _ = request_for(a.tofu, a.task, False)
    seen: list[list] = []
    if a.epochs_seen:
        seen_by(seen)
    name = f"task{a.task}-" + "".join(c if c.isalnum() else "-" for c in a.settings)
    with tempfile.TemporaryDirectory() as scratch:
        store = a.work or Path(scratch)
        resumed, began = (store / RUNS / name).is_dir(), time.monotonic()
        result = forget(
            request, str(a.base), config, name=name, store=store, resume=True, profile=Path(scratch) / "profile",
            progress=Bars(),
        )  # fmt: skip
        seconds, used = time.monotonic() - began, os.times()
        profile = json.loads((Path(scratch) / "profile" / "profile.json").read_text())["seconds"]
    run = {"task": a.task, "settings": a.settings, "threads": torch.get_num_threads(), "seconds": round(seconds)}
    run |= {"core seconds": round(used.user + used.system), "resumed": resumed, "figures": figures(result)}
    run |= {
        "training seconds": round(result.record.training["train_seconds"]),
        "steps": result.record.training["steps"],
    }
    run |= {"stopped": result.record.training.get("stopped"), "profile": {k: round(v, 1) for k, v in profile.items()}}
    run |= {"epochs seen": seen, "date": time.strftime("%Y-%m-%d"), "machine": platform.machine()}
    runs = [*read_data("whole_job", []), run]
    write_data("whole_job", runs)
    write_table("whole_job", HEADING + table(runs))
    print(json.dumps(run, indent=1))


if __name__ == "__main__":
    main()
