"""Several small requests at once against one after the other, on one base in memory.

    python benchmarks/at_once.py --requests 8 --questions 10                     # a tiny base
    python benchmarks/at_once.py BASE TOFU --requests 8 --questions 10 --settings epochs=4

With BASE and TOFU the requests are memorised TOFU rows, and 160 other memorised rows are kept. Runs that were timed
already are left out, so that an interrupted benchmark goes on (--again forgets them). Writes docs/results/at_once.md
and data/at_once.json.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from asu_lora import ForgetRequest, forget
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.config_mapping import config_from
from asu_lora.data.reading import read_rows
from asu_lora.forgetting.at_once import forget_at_once
from asu_lora.models.loading import load_base
from common.results import read_data, write_data, write_table
from common.tiny_base import save_tiny_base

HEADING = """# Several requests at once

`python benchmarks/at_once.py [BASE TOFU] --requests K --questions N`: K requests of N questions on one base in memory,
one after the other (`asu-lora requests run`) and at once (`--at-once K`); loading the base is in neither. "core s" is
user and system time. The last column is the largest difference of two adapters' numbers over the largest number.

"""


def requests_of(tofu: Path | None, count: int, questions: int) -> dict[str, ForgetRequest]:
    """Requests of TOFU rows, or of made-up ones for the tiny base."""
    if tofu is None:
        rows = [{"question": f"What does person {n} do?", "answer": f"Person {n} does {n * n}."} for n in range(200)]
        keep = [{"question": f"Where is town {n}?", "answer": f"Town {n} is {n} miles away."} for n in range(40)]
    else:
        strip = ("paraphrased_answer", "perturbed_answer")
        rows = [{k: v for k, v in row.items() if k not in strip} for row in read_rows(tofu / "forget01.json")[:120]]
        keep = [
            {k: v for k, v in row.items() if k not in strip} for row in read_rows(tofu / "retain_perturbed.json")[:160]
        ]
    cut = {f"r{n}": rows[n * questions : (n + 1) * questions] for n in range(count)}
    return {name: ForgetRequest.from_rows(part, keep, name) for name, part in cut.items()}


def timed(work) -> dict[str, float]:
    began, used = time.monotonic(), os.times()
    work()
    now = os.times()
    return {"s": time.monotonic() - began, "core s": now.user + now.system - used.user - used.system}


def difference(store: Path, other: Path, names: list[str]) -> float:
    """The largest difference of any number of two adapters, over the largest number."""
    worst = 0.0
    for name in names:
        one, two = (load_file(folder / name / "adapter_model.safetensors") for folder in (store, other))
        b = [key for key in one if "lora_B" in key]
        largest = max(float(one[key].abs().max()) for key in b)
        worst = max(worst, *(float((one[key] - two[key]).abs().max()) / largest for key in b))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, nargs="?")
    parser.add_argument("tofu", type=Path, nargs="?")
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--settings", default="", help="NAME=VALUE,... of forget")
    parser.add_argument("--work", type=Path, help="keep the adapters here, and go on from there")
    parser.add_argument("--again", action="store_true", help="time everything anew")
    a = parser.parse_args()
    quiet_libraries()
    given = {name: yaml.safe_load(value) for name, value in (s.split("=") for s in a.settings.split(",") if s)}
    if a.base is None:  # random weights know no facts that a tau could take
        given = {"tau": 3.0, "precision": "fp32", "smooth_layers": "all", "adapter_layers": "all"} | given
    config = config_from(given, "--settings")
    key = f"{a.base.name if a.base else 'tiny'}, {a.requests} x {a.questions}, {a.settings or 'defaults'}"
    key += f", {torch.get_num_threads()} threads"
    kept = read_data("at_once", {})
    found = kept.setdefault(key, {}) if not a.again else kept.update({key: {}}) or kept[key]
    requests = requests_of(a.tofu, a.requests, a.questions)
    with tempfile.TemporaryDirectory() as scratch:
        work = a.work or Path(scratch)
        base = load_base(str(a.base or save_tiny_base(work / "tiny")), config.precision, config.device)
        base.head  # noqa: B018  (its trial belongs to neither)
        alone = found.setdefault("alone", {})
        for name, request in requests.items():
            if name not in alone or not (work / "alone" / name).is_dir():
                alone[name] = timed(lambda r=request, n=name: forget(r, base, config, name=n, store=work / "alone"))
                write_data("at_once", kept)
                print(name, alone[name], flush=True)
        if "at once" not in found or not (work / "at-once" / name).is_dir():
            found["at once"] = timed(lambda: forget_at_once(requests, base, config, store=work / "at-once"))
            found["difference"] = difference(work / "alone", work / "at-once", list(requests))
        write_data("at_once", kept)
    head = ["base, requests, settings", "one after the other, s", "core s", "at once, s", "core s", "throughput"]
    lines = [[*head, "difference"], ["---"] * 7]
    for what, each in kept.items():
        if "at once" in each:
            one = {unit: sum(run[unit] for run in each["alone"].values()) for unit in ("s", "core s")}
            cells = [one["s"], one["core s"], each["at once"]["s"], each["at once"]["core s"]]
            ratio = (
                f"{one['s'] / each['at once']['s']:.2f} x ({one['core s'] / each['at once']['core s']:.2f} x of cores)"
            )
            lines.append([what, *(f"{cell:.1f}" for cell in cells), ratio, f"{each['difference']:.1e}"])
    write_table("at_once", HEADING + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n")
    print(lines[-1])


if __name__ == "__main__":
    main()
