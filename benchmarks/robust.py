"""`forget --robust` on memorised TOFU rows: what each level keeps, what attacks bring back, what it costs.

    python benchmarks/robust.py BASE TOFU --store STORE --tasks 1 3 --levels off standard strong

BASE is the checkpoint that ../shared/tofu_smollm2/build_base.py writes, TOFU the folder of TOFU's JSON files. Each
adapter is trained with the defaults and its level (unless STORE has it) and then attacked with the attacks of ``audit
--quick`` and by tuning on kept neighbours. Rows of tasks 4 and 5, which the base never saw, are the floor. What is in
the results is left out. Writes docs/results/robust.md and data/robust.json.
"""

import argparse
import platform
from dataclasses import replace
from datetime import date
from pathlib import Path

from asu_lora import forget
from asu_lora.adapters.manifest import read_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.adding_up import default_settings
from asu_lora.audit.request import AuditRequest
from asu_lora.audit.run import audit
from asu_lora.audit.settings import AuditSettings
from asu_lora.cli.progress import Bars
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.data.examples import examples_from_rows
from asu_lora.data.reading import read_rows
from asu_lora.robust import ROBUST
from common.results import read_data, write_data, write_table
from common.tofu_request import MEMORISED_TASKS, request_for

ATTACKS = tuple(
    "direct prefix paraphrases insisting worst_of_asking sampling precision relearn tune_neighbours".split()
)
NEVER_SEEN = ("4", "5")  # tasks of forget01.json
KEPT = ("forget_probability", "retain_probability", "heldout_probability", "retain_gibberish_rate")


def trained(level: str, task: str, arguments: argparse.Namespace) -> AuditRequest:
    """Train the adapter if it is missing; what an audit of it asks."""
    request, held = request_for(arguments.tofu, task, left_out=True)
    store, name, base = AdapterStore(arguments.store), f"{level}-{task}", str(arguments.base)
    if name not in store.names():
        config = replace(default_settings(alone=True, robust=level), seed=arguments.seed)
        forget(request, base, config, name=name, store=store, heldout=held, resume=True, progress=Bars())
    never = [row for row in read_rows(arguments.tofu / "forget01.json") if row["task_id"] in NEVER_SEEN]
    return AuditRequest(
        forget=request.forget,
        retain=request.retain,
        floor=examples_from_rows(never, "never-seen rows"),
        base=base,
        adapters=(name,),
        store=store.root,
    )


def trained_and_attacked(level: str, task: str, arguments: argparse.Namespace) -> dict:
    """Train the adapter if it is missing, attack it, and say what came of it."""
    asked = trained(level, task, arguments)
    manifest = read_manifest(arguments.store / f"{level}-{task}")
    with Bars() as progress:
        result = audit(asked, AuditSettings(ATTACKS, "quick"), progress)
    return {
        "level": level,
        "task": task,
        "seed": arguments.seed,
        "before": manifest.figures.before,
        "after": manifest.figures.after,
        "seconds": manifest.wall_time_s,
        "recovered": {attack.attack: attack.readings[0].recovered for attack in result.attacks},
        "machine": platform.machine(),
        "date": date.today().isoformat(),
    }


def table(runs: list[dict]) -> str:
    """One line a level and task."""
    attacks = [attack.replace("_", " ") for attack in ATTACKS]
    lines = [
        "# Forgetting that lasts: `--robust`",
        "",
        "`python benchmarks/robust.py BASE TOFU --store STORE --tasks ... --levels ...`. An attack's column has what "
        "it recovers, (found - floor) / (ceiling - floor), of the facts said; kept, left out and forgotten are "
        "answer probabilities over the base's; gibberish is of kept answers.",
        "",
        f"| level, task | forgotten | kept | left out | gibberish | {' | '.join(attacks)} | seconds |",
        "|---|" + "---:|" * (len(ATTACKS) + 5),
    ]
    for run in runs:
        shares = [run["after"][key] / run["before"][key] for key in KEPT[:3]]
        found = [run["recovered"].get(attack) for attack in ATTACKS]
        cells = [f"{share:.1%}" for share in [*shares, run["after"][KEPT[3]]]]
        cells += ["" if each is None else f"{max(each, 0.0):.0%}" for each in found]
        lines.append(f"| {run['level']}, {run['task']} | {' | '.join(cells)} | {run['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("tofu", type=Path)
    parser.add_argument("--store", type=Path, required=True, help="where the adapters are, or will be")
    parser.add_argument("--tasks", nargs="+", default=["1"], choices=MEMORISED_TASKS)
    parser.add_argument("--levels", nargs="+", default=list(ROBUST), choices=list(ROBUST))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quiet_libraries()
    for task in arguments.tasks:
        for level in arguments.levels:
            runs = read_data("robust", [])  # another process may have written meanwhile
            if any((run["level"], run["task"], run["seed"]) == (level, task, arguments.seed) for run in runs):
                continue
            found = trained_and_attacked(level, task, arguments)
            runs = sorted(
                [*read_data("robust", []), found], key=lambda run: (run["task"], list(ROBUST).index(run["level"]))
            )
            write_data("robust", runs)
            write_table("robust", table(runs))
    print(table(read_data("robust", [])))


if __name__ == "__main__":
    main()
