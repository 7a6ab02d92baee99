"""Requests forgotten one by one, each on the plain base, and the plain sum of their adapters.

    python benchmarks/adding_up.py BASE TOFU STORE --set retain_dose=4 keep_off=0.5 lr=2e-3
    python benchmarks/adding_up.py BASE TOFU STORE --set lr=2e-3 --tag apart --requests ten

BASE is the checkpoint that ../shared/tofu_smollm2/build_base.py writes, TOFU the folder of TOFU's JSON files. The
requests are tasks 1 to 3 (40 questions each), or with ``ten`` the same rows, twelve by twelve. The first 120 rows of
retain_perturbed.json are kept, its rows 120 to 159 left out. Adapters that lie in STORE are not trained again. Writes
docs/results/data/adding_up.json, a line a model.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from asu_lora import ForgetConfig, ForgetRequest, forget, load
from asu_lora.adapters.store import AdapterStore
from asu_lora.cli.progress import Bars
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.data.examples import Example, examples_from_rows
from asu_lora.data.reading import read_rows
from asu_lora.data.sampling import sample
from asu_lora.evaluation.set_scores import score_set
from asu_lora.models.loading import LoadedBase, load_base
from common.results import read_data, write_data
from common.tofu_request import MEMORISED_RETAIN, MEMORISED_TASKS

KEPT = 120


def requests_of(tofu: Path, which: str) -> tuple[dict[str, ForgetRequest], dict[str, list[Example]]]:
    """The requests by name, and the sets that are measured beside theirs."""
    rows = [row for row in read_rows(tofu / "forget01.json") if row["task_id"] in MEMORISED_TASKS]
    rows = [{"question": row["question"], "answer": row["answer"], "task": row["task_id"]} for row in rows]
    retain = [
        {"question": row["question"], "answer": row["answer"]}
        for row in read_rows(tofu / "retain_perturbed.json")[:MEMORISED_RETAIN]
    ]
    if which == "three":
        mine = {task: [row for row in rows if row["task"] == task] for task in MEMORISED_TASKS}
    else:
        mine = {str(i): rows[12 * i : 12 * i + 12] for i in range(10)}
    sets = {
        "kept": examples_from_rows(retain[:KEPT], "kept"),
        "left out": examples_from_rows(retain[KEPT:], "left out"),
    }
    return {name: ForgetRequest.from_rows(mine[name], retain[:KEPT]) for name in mine}, sets


def changed(config: ForgetConfig, settings: list[str]) -> ForgetConfig:
    """The defaults with ``name=value`` settings."""
    values = dict(setting.split("=", 1) for setting in settings)
    return replace(config, **{name: type(getattr(config, name))(float(value)) for name, value in values.items()})


def measured(base: LoadedBase, adapters: list, store: AdapterStore, sets: dict[str, list[Example]]) -> dict:
    """Answer probability, ROUGE-L recall and gibberish of each set, by the base with these adapters."""
    stack, found = load(base, adapters, store), {}
    for name, examples in sets.items():
        scores = score_set(stack.model, base.head, base.tokenizer, stack.encoder(), examples).summary("x")
        found[name] = {key[2:]: round(value, 4) for key, value in scores.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("tofu", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--requests", default="three", choices=["three", "ten"])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of forget")
    parser.add_argument("--tag", default="sum", help="of the adapters' names and of the lines")
    parser.add_argument("--questions", type=int, default=24, help="measured of each set")
    parser.add_argument("--weights", nargs="*", type=float, default=[1.0], help="of every adapter in the sum")
    a = parser.parse_args()
    quiet_libraries()
    requests, sets = requests_of(a.tofu, a.requests)
    config = changed(ForgetConfig(eval_rows=0), a.set)
    base, store = load_base(str(a.base), config.precision, config.device), AdapterStore(a.store)
    names = {name: f"{a.tag}-{a.requests}-{name}" for name in requests}
    for name, request in requests.items():
        if names[name] not in store.names():
            forget(request, base, config, name=names[name], store=store, progress=Bars())
    sets = {**{name: request.forget for name, request in requests.items()}, **sets}
    sets = {name: sample(examples, a.questions) for name, examples in sets.items()}
    lines = {"base": []} | {f"{a.tag}, {a.requests}: {name} alone": [(names[name], 1.0)] for name in requests}
    for count in range(2, len(requests) + 1):
        for weight in a.weights:
            chosen = list(names.values())[:count]
            lines[f"{a.tag}, {a.requests}: sum of {count} at {weight:g}"] = [(name, weight) for name in chosen]
    found = read_data("adding_up", {})
    for line, adapters in lines.items():
        if line not in found:
            found[line] = measured(base, adapters, store, sets)
            write_data("adding_up", found)
        print(line, {name: figures["probability"] for name, figures in found[line].items()})


if __name__ == "__main__":
    main()
