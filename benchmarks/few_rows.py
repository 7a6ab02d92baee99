"""A request of a few rows about something the base knows from everywhere: Harry Potter, on the embedded base.

    python benchmarks/few_rows.py --rows 8 --kept 16 --settings epochs=24

The demonstration's forget and retain rows are thinned out. Its held-out paraphrases and controls, none of them rows of
the request, are asked before and after. Writes docs/results/few_rows.md and data/few_rows.json. About three minutes of
one quiet core a run.
"""

import argparse
import tempfile
from collections.abc import Sequence
from datetime import date

import yaml

from asu_lora import forget
from asu_lora.adding_up import ADDS_UP
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.config_mapping import config_from
from asu_lora.data.request import ForgetRequest
from asu_lora.demo.harry_potter import TOTAL_TOKENS, packaged_rows
from asu_lora.models.adapter_stack import load
from asu_lora.models.loading import load_base
from common.results import read_data, write_data, write_table

SETS = ("heldout", "controls")
HEAD = """# Requests of a few rows

`python benchmarks/few_rows.py --rows N --kept M --settings ...`: Harry Potter on the embedded base, N of the
demonstration's 32 forget rows and M of its 62 retain rows, NF4, seed 0. Told are the held-out paraphrases and the
controls in whose answer the fact stands, before and after; none of them is a row of the request.

| rows, kept | settings beside the defaults | steps | answer probability | paraphrases told | controls told |
|---|---|---:|---|---|---|
"""


def thinned(rows: list[dict], count: int) -> list[dict]:
    """So many of the rows, spread evenly."""
    return rows[:: len(rows) // count][:count]


def told(rows: Sequence[dict], answers: Sequence[str]) -> int:
    """In how many answers the fact stands."""
    return sum(any(f.lower() in answer.lower() for f in row["fact"]) for row, answer in zip(rows, answers, strict=True))


def measured(rows: int, kept: int, settings: str) -> dict:
    """Train the adapter into a folder that goes away, and ask with and without it."""
    given = {name: yaml.safe_load(value) for name, value in (each.split("=") for each in settings.split(",") if each)}
    base = load_base("smollm2-135m")
    request = ForgetRequest.from_rows(thinned(packaged_rows("forget"), rows), thinned(packaged_rows("retain"), kept))
    found = {"rows": rows, "kept": kept, "settings": settings, "date": date.today().isoformat()}
    with tempfile.TemporaryDirectory() as store:
        run = forget(request, base, config_from({**ADDS_UP, **given}, "--settings"), name="few", store=store)
        stack = load(base, ["few"], store)
        for name in SETS:
            asked = packaged_rows(name)
            questions = [row["question"] for row in asked]
            with stack.without_adapters():
                before = told(asked, stack.ask(questions, TOTAL_TOKENS))
            found[name] = [before, told(asked, stack.ask(questions, TOTAL_TOKENS)), len(asked)]
    probability = [round(each["forget_probability"], 4) for each in (run.before, run.after)]
    return found | {"steps": run.record.training["steps"], "probability": probability}


def line(run: dict) -> str:
    """Of the table."""
    shares = [f"{run[name][0]} to {run[name][1]} of {run[name][2]}" for name in SETS]
    cells = [f"{run['rows']}, {run['kept']}", run["settings"] or "none", str(run["steps"])]
    cells += ["{:.2f} to {:.2f}".format(*run["probability"]), *shares]
    return "| " + " | ".join(cells) + " |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--kept", type=int, default=16)
    parser.add_argument("--settings", default="", help="NAME=VALUE,... of forget")
    a = parser.parse_args()
    quiet_libraries()
    found = measured(a.rows, a.kept, a.settings)
    runs = [*read_data("few_rows", []), found]
    write_data("few_rows", runs)
    write_table("few_rows", HEAD + "".join(map(line, runs)))
    print(line(found))


if __name__ == "__main__":
    main()
