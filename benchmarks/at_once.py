"""Several small requests at once, in a queue and each by itself, on one base in memory.

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

from asu_lora import ForgetConfig, ForgetRequest, forget
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.config_mapping import config_from
from asu_lora.data.reading import read_rows
from asu_lora.forgetting.at_once import forget_at_once
from asu_lora.models.loading import LoadedBase, load_base
from asu_lora.requests.runner.settled_heap import settled_heap
from asu_lora.teacher.kept_states import KeptStates
from common.results import read_data, write_data, write_table
from common.tiny_base import save_tiny_base

HEADING = """# Several requests at once

`python benchmarks/at_once.py [BASE TOFU] --requests K --questions N`: K requests of N questions on one base in memory:
each by itself (`asu-lora forget`, K times), one after the other in a queue (`asu-lora requests run`, which reads the
rows that all keep once) and at once (`--at-once K`); loading the base is in none. "core s" is user and system time,
throughput the core seconds of each by itself over those of the way. The last column is the largest difference of an
adapter's numbers, made at once and by itself, over the largest number.

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


def queue(requests: dict[str, ForgetRequest], base: LoadedBase, config: ForgetConfig, store: Path) -> None:
    """As `asu-lora requests run` trains them: what is read of the kept rows serves the next request too."""
    kept = KeptStates(retain_alone=True)
    with settled_heap():
        for name, request in requests.items():
            forget(request, base, config, name=name, store=store, kept=kept)


def at_once(requests: dict[str, ForgetRequest], base: LoadedBase, config: ForgetConfig, store: Path) -> None:
    """As `asu-lora requests run --at-once` trains them."""
    with settled_heap():
        forget_at_once(requests, base, config, store=store)


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
        apart = found.setdefault("apart", {})
        for name, request in requests.items():
            if name not in apart or not (work / "apart" / name).is_dir():
                apart[name] = timed(lambda r=request, n=name: forget(r, base, config, name=n, store=work / "apart"))
                write_data("at_once", kept)
                print(name, apart[name], flush=True)
        if "queue" not in found:
            found["queue"] = timed(lambda: queue(requests, base, config, work / "queue"))
            write_data("at_once", kept)
            print("queue", found["queue"], flush=True)
        if "at once" not in found or not (work / "at-once" / name).is_dir():
            found["at once"] = timed(lambda: at_once(requests, base, config, work / "at-once"))
            found["difference"] = difference(work / "apart", work / "at-once", list(requests))
        write_data("at_once", kept)
    ways = [f"{way}, {unit}" for way in ("by itself", "queue", "at once") for unit in ("s", "core s")]
    lines = [["base, requests, settings", *ways, "throughput: queue", "at once", "difference"], ["---"] * 10]
    for what, each in kept.items():
        if "at once" in each:
            one = {unit: sum(run[unit] for run in each["apart"].values()) for unit in ("s", "core s")}
            cells = [f"{way[unit]:.1f}" for way in (one, each["queue"], each["at once"]) for unit in ("s", "core s")]
            ratios = [f"{one['core s'] / each[way]['core s']:.2f} x" for way in ("queue", "at once")]
            lines.append([what, *cells, *ratios, f"{each['difference']:.1e}"])
    write_table("at_once", HEADING + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n")
    print(lines[-1])


if __name__ == "__main__":
    main()
