"""Relearning a fifth of a request, over all of its rows: what comes back at the attacker's best rate and step.

    python benchmarks/relearning.py BASE TOFU --store STORE --task 2 --levels off standard

`audit --quick` relearns 4 rows and asks 12, of which one is 8 points. Here 8 rows are relearnt and 32 asked, at three
rates and three marks. The floor is never-seen rows, relearnt alike, or with --floor-base (benchmarks/reference_base.py
makes one) the very same rows in a model that never saw them: a fifth of an author's rows tells something of the others.
Adapters as in benchmarks/robust.py. Writes data/relearning.json; the figures stand in docs/results/robust.md. Some 12
minutes of one quiet core an adapter.
"""

import argparse
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from unittest.mock import patch

from robust import trained

from asu_lora.audit import settings
from asu_lora.audit.run import audit
from asu_lora.cli.progress import Bars
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.robust import ROBUST
from common.results import read_data, write_data
from common.tofu_request import MEMORISED_TASKS

EFFORT = replace(settings.DEPTHS["quick"], rows=40, rates=(5e-4, 1e-3, 2e-3), marks=(5, 10, 15), room=1.0)


def relearnt(level: str, arguments: argparse.Namespace) -> dict:
    """The peak, its floor and ceiling, and the share recovered."""
    asked = trained(level, arguments.task, arguments)
    if arguments.floor_base:
        asked = replace(asked, floor=None, floor_base=str(arguments.floor_base))
    with patch.dict(settings.DEPTHS, quick=EFFORT), Bars() as progress:
        [attack] = audit(asked, settings.AuditSettings(("relearn",), "quick"), progress).attacks
    reading = attack.readings[0]
    assert reading.floor and reading.ceiling and reading.recovered is not None
    return {
        "level": level,
        "task": arguments.task,
        "seed": arguments.seed,
        "floor of": "a base that never saw the rows" if arguments.floor_base else "never-seen rows",
        "recovered": round(reading.recovered, 4),
        "told": [round(x, 4) for x in (reading.candidate.value, reading.candidate.low, reading.candidate.high)],
        "floor": round(reading.floor.value, 4),
        "ceiling": round(reading.ceiling.value, 4),
        "effort": {name: asdict(EFFORT)[name] for name in ("rows", "rates", "marks")},
        "date": date.today().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("tofu", type=Path)
    parser.add_argument("--store", type=Path, required=True, help="where the adapters are, or will be")
    parser.add_argument("--task", default="2", choices=MEMORISED_TASKS)
    parser.add_argument("--levels", nargs="+", default=["off", "standard"], choices=list(ROBUST))
    parser.add_argument("--floor-base", type=Path, help="a base that never saw the request")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quiet_libraries()
    for level in arguments.levels:
        found = relearnt(level, arguments)
        write_data("relearning", [*read_data("relearning", []), found])
        print(found)


if __name__ == "__main__":
    main()
