"""`asu-lora audit` on memorised TOFU rows: the defaults' adapter beside those of two other methods.

    python benchmarks/audit.py BASE TOFU --store STORE --depth quick

BASE is the checkpoint that ../shared/tofu_smollm2/build_base.py writes, TOFU the folder of TOFU's JSON files. Each
adapter is trained on task 1 (40 questions) for as many steps, unless STORE has it, and then attacked. Rows of tasks 4
and 5, which the base never saw, are the floor. Training goes on where it was interrupted, an audit with the attack
that it had begun, and what is in the results is left out. Writes docs/results/audit.md, data/audit.json and
docs/images/audit.png.
"""

import argparse
import platform
import time
from pathlib import Path

from asu_lora import ForgetConfig, forget
from asu_lora.adapters.store import AdapterStore
from asu_lora.adding_up import ADDS_UP
from asu_lora.audit.request import AuditRequest
from asu_lora.audit.run import audit
from asu_lora.audit.save import save_audit
from asu_lora.audit.settings import DEPTHS, AuditSettings
from asu_lora.cli.progress import Bars
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.data.examples import examples_from_rows
from asu_lora.data.reading import read_rows
from common.audit_page import draw, table
from common.results import read_data, write_data, write_table
from common.tofu_request import request_for

METHODS = {
    "adds-up": ForgetConfig(**ADDS_UP),  # the defaults of forget
    "no-adds-up": ForgetConfig(),
    "GA_GD": ForgetConfig(objective="ga", retain_loss="gd", lr=5e-4),
    "NPO_GD": ForgetConfig(objective="npo", retain_loss="gd", lr=5e-4),
}
NEVER_SEEN = ("4", "5")  # tasks of forget01.json
COMMAND = "python benchmarks/audit.py BASE TOFU --store STORE --depth"


def attacked(name: str, arguments: argparse.Namespace, depth: str) -> dict:
    """Train what is missing, attack it, and say what that took."""
    request, _ = request_for(arguments.tofu, "1", left_out=False)
    store = AdapterStore(arguments.store)
    base = str(arguments.base)
    if name not in store.names():
        forget(request, base, METHODS[name], name=name, store=store, resume=True, progress=Bars())
    rows = read_rows(arguments.tofu / "forget01.json")
    never = examples_from_rows([row for row in rows if row["task_id"] in NEVER_SEEN], "never-seen rows")
    asked = AuditRequest(
        forget=request.forget, retain=request.retain, floor=never, base=base, adapters=(name,), store=store.root
    )
    attacks = tuple(arguments.attacks.split(",")) if arguments.attacks else None
    wall, cores = time.monotonic(), time.process_time()
    with Bars() as progress:
        result = audit(asked, AuditSettings(attacks, depth), progress)
    save_audit(result, asked)
    return {
        "method": name,
        "depth": depth,
        "attacks": arguments.attacks,
        # of this call alone: an audit that went on where it was interrupted took longer
        "core seconds": round(time.process_time() - cores),
        "wall seconds": round(time.monotonic() - wall),
        "attack seconds": round(sum(attack.seconds for attack in result.attacks)),
        "machine": platform.machine(),
        "date": result.finished[:10],
        "result": result.model_dump(mode="json"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("tofu", type=Path)
    parser.add_argument("--store", type=Path, required=True, help="where the adapters are, or will be")
    parser.add_argument("--depth", nargs="+", default=["standard"], choices=DEPTHS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--attacks", help="these attacks or kinds alone")
    arguments = parser.parse_args()
    quiet_libraries()
    runs = read_data("audit", [])
    for depth in arguments.depth:
        for name in arguments.methods:
            done = {(run["method"], run["depth"], run["attacks"]) for run in runs}
            if (name, depth, arguments.attacks) in done:
                continue
            runs.append(attacked(name, arguments, depth))
            write_data("audit", runs)
            write_table("audit", table(runs, COMMAND))
            draw(runs)
    print(table(runs, COMMAND))


if __name__ == "__main__":
    main()
