"""What a run costs against the number of questions to forget.

    python benchmarks/request_size.py BASE TOFU --sizes 10 30 100 300 1000

Whole runs but for the figures before and after: references once, one epoch (two with --epochs 2), as many retain
rows. A line is fitted. Writes docs/results/request_size.md and data/request_size.json. Sizes that are in the results
already, with the same settings, are left out, so that an interrupted benchmark goes on.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from asu_lora import ForgetConfig, ForgetRequest, forget
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.data.reading import read_rows
from asu_lora.models.loading import load_base
from common.results import read_data, write_data, write_table
from common.training_steps import plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("tofu", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--own-words", type=float, default=ForgetConfig().own_words, help="0 asks the student nothing")
    a = parser.parse_args()
    quiet_libraries()
    rows = plain(read_rows(a.tofu / "retain90.json"))
    base = load_base(a.base, "nf4", "cpu")
    config = ForgetConfig(tau=3.0, epochs=a.epochs, eval_rows=0, retain_per_forget=1, own_words=a.own_words)
    settings = {"epochs": a.epochs, "own words": a.own_words, "threads": torch.get_num_threads()}
    before = read_data("request_size", {})
    found = before["runs"] if before.get("settings") == settings else []
    todo = [size for size in a.sizes if size not in [run["questions"] for run in found]]
    for number, size in enumerate([*todo[:1], *todo]):  # the first run warms up
        request = ForgetRequest.from_rows(rows[:size], rows[size : 2 * size], "size")
        with tempfile.TemporaryDirectory() as store:
            result = forget(request, base, config, store=store)
        found.append(
            {
                "questions": size,
                "seconds": result.record.seconds,
                "steps": result.record.training["steps"],
                "training seconds": result.record.training["train_seconds"],
            }
        )
        print(found[-1], flush=True)
        if not number:
            found.pop()
        write_data("request_size", {"settings": settings, "runs": found})
    found.sort(key=lambda run: run["questions"])
    x, y = np.array([f["questions"] for f in found]), np.array([f["seconds"] for f in found])
    slope, constant = np.polyfit(x, y, 1)
    off = float(np.abs(slope * x + constant - y).max() / y.max())
    summary = {
        "seconds a question": slope,
        "constant seconds": constant,
        "largest deviation, share of the longest run": off,
    }
    write_data("request_size", {"settings": settings, "runs": found, "fit": summary})
    lines = [
        "# Cost against the size of the request",
        "",
        f"`python benchmarks/request_size.py BASE TOFU --sizes {' '.join(map(str, a.sizes))}`, "
        f"{a.epochs:g} epoch(s), own words {a.own_words:g}, NF4, {torch.get_num_threads()} threads, a retain row "
        "with each, nothing measured before and after.",
        "",
        "| questions | steps | seconds |",
        "|---|---|---|",
    ]
    lines += [f"| {f['questions']} | {f['steps']} | {f['seconds']:.1f} |" for f in found]
    lines += [
        "",
        f"Seconds = {constant:.1f} + {slope:.3f} x questions; no run is further than {off:.1%} of the "
        "longest from that line.",
    ]
    write_table("request_size", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
