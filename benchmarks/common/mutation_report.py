"""What came of broken lines: counts by module and file, and the breaks that no test noticed, each with its reason."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

# By mutmut's exit codes, those of pytest among them.
CODES = {None: "not run", 0: "survived", 1: "killed", 3: "killed", 5: "no test", 33: "no test", 34: "not run"}
TIMEOUTS = (36, -24, 24, 152, 255)
COLUMNS = ("killed", "timeout", "survived", "no test", "not run")
EXCUSES = Path(__file__).with_name("mutants_excused.json")


def outcomes(copy: Path, broken: Sequence[str]) -> dict[str, str]:
    """What came of each mutant of some files under a copy that mutmut works in, by the mutant's name."""
    found: dict[str, str] = {}
    for file in sorted((copy / "mutants" / "asu_lora").rglob("*.meta")):
        source = file.relative_to(copy / "mutants").as_posix().removesuffix(".meta")
        if not any(fnmatchcase(source, pattern) for pattern in broken):
            continue
        for name, code in json.loads(file.read_text())["exit_code_by_key"].items():
            found[name] = "timeout" if code in TIMEOUTS else CODES.get(code, "other")
    return found


def place(name: str) -> tuple[str, str]:
    """File and function of a mutant, from its name: ``a.b.xǁClassǁrun__mutmut_3`` is ``a/b.py``, ``Class.run``."""
    module, _, function = name.rpartition(".")
    function = function.partition("__mutmut_")[0].removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
    return f"{module.replace('.', '/')}.py", function


def counts(found: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """How many mutants of each file came to what."""
    by_file: dict[str, Counter[str]] = {}
    for name, outcome in found.items():
        by_file.setdefault(place(name)[0], Counter())[outcome] += 1
    return {file: dict(counter) for file, counter in sorted(by_file.items())}


def change(diff: str) -> tuple[str, str]:
    """The lines that a mutant took out and put in, of a unified diff."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    out, put = ([line[1:].strip() for line in lines if line.startswith(sign)] for sign in "-+")
    return " ".join(out), " ".join(put)


def excuse(name: str, now: str) -> dict[str, Any] | None:
    """Why a mutant may live: the first rule whose patterns fit its function and its new line."""
    where = "::".join(place(name))
    rules = json.loads(EXCUSES.read_text())
    return next((rule for rule in rules if fnmatchcase(where, rule["where"]) and fnmatchcase(now, rule["now"])), None)


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of results, of what :func:`benchmarks.mutants.summary` gives of each module."""
    rows, alive = [], []
    for module, of in found.items():
        sums = Counter[str]()
        for counter in of["files"].values():
            sums.update(counter)
        lives = [(name, *each, excuse(name, each[2])) for name, each in of["alive"].items()]
        rows.append((module, sums, sum(bool(why and why["equivalent"]) for *_, why in lives), of["date"]))
        alive += lives
    sums = sum((row[1] for row in rows), Counter[str]())
    rows.append(("**all**", sums, sum(row[2] for row in rows), ""))
    tried, killed = sums.total() - sums["not run"], sums["killed"]
    return "\n".join(
        [
            "# Would a test notice? Lines broken one at a time",
            "",
            "`make mutants` (`python benchmarks/mutants.py`). A mutant is one change to a line: a sign, a constant, an "
            "argument left out, a condition turned round, a word misspelt. Killed: a test failed. No test: none of the "
            "tests chosen for the module runs the function. Equivalent: a survivor that changes nothing a user could "
            "see, by hand; it counts as a survivor all the same.",
            "",
            f"**{killed:,} of {tried:,} mutants that were run were killed: {share(killed, tried)}.** "
            f"{sums['not run']:,} were not run.",
            "",
            *samples(found),
            "| module | mutants | killed | timeout | survived | no test | not run | of the survivors equivalent "
            "| killed of those run | date |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
            *(table_row(*row) for row in rows),
            "",
            *survivors(alive),
        ]
    )


def samples(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence on each module of which a random part was run, with the interval of its share."""
    lines = []
    for module, of in found.items():
        if not of["sample"]:
            continue
        sums = sum((Counter[str](each) for each in of["files"].values()), Counter[str]())
        killed, tried = sums["killed"], sums.total() - sums["not run"]
        interval = binomtest(killed, tried).proportion_ci(method="exact")
        lines += [
            f"Of {module} a random {of['sample']['size']} of {sums.total()} mutants were run (seed "
            f"{of['sample']['seed']}): {share(killed, tried)} killed, of all of them {100 * interval.low:.1f} to "
            f"{100 * interval.high:.1f} % with 95 % confidence (Clopper-Pearson).",
            "",
        ]
    return lines


def share(killed: int, tried: int) -> str:
    return f"{100 * killed / tried:.1f} %" if tried else "-"


def table_row(module: str, sums: Counter[str], equivalent: int, date: str) -> str:
    cells = [f"{sums[column]:,}" for column in COLUMNS]
    part = share(sums["killed"], sums.total() - sums["not run"])
    return f"| {module} | {sums.total():,} | {' | '.join(cells)} | {equivalent} | {part} | {date} |"


def survivors(alive: Sequence[tuple[str, str, str, str, dict[str, Any] | None]]) -> list[str]:
    """The mutants that no test noticed, by reason; those without one come first."""
    by_reason: dict[str, list[str]] = {}
    for name, outcome, before, now, why in sorted(alive, key=lambda each: (each[4] is not None, each[0])):
        reason = "No reason yet: a test is missing" if why is None else why["why"]
        reason = f"Equivalent: {reason}" if why and why["equivalent"] else reason
        mark = "" if outcome == "survived" else f" ({outcome})"
        file, function = place(name)
        lines = by_reason.setdefault(reason, [])
        lines.append(f"# {file.removeprefix('asu_lora/')} {function}{mark}")
        lines += [f"-{before}", f"+{now}"]
    found = ["## Survivors", ""]
    for reason, lines in by_reason.items():
        found += [f"{reason}.", "", "```diff", *lines, "```", ""]
    return found
