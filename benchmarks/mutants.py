"""Lines of signed-for modules broken one at a time: how many of the breaks does a test notice?

    make mutants
    python benchmarks/mutants.py                       # all that was not tried yet, quick modules first
    python benchmarks/mutants.py losses targets        # some of them
    python benchmarks/mutants.py --again merge         # those that lived, once there are new tests
    python benchmarks/mutants.py trainer --sample 150  # a random part, drawn by --seed

mutmut breaks losses, targets, trainer, scoring, combine and merge, and runs the tests that reach the broken function.
It works on copies in build/mutants and keeps what it found: an interrupted run goes on where it was, and a function
that was changed is tried anew. Writes docs/results/mutants.md and data/mutants.json.
"""

import argparse
import datetime
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from common.mutation_report import change, counts, outcomes, page
from common.results import read_data, write_data, write_table

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "mutants"
BESIDE = ("tests", "benchmarks", "docs", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile")
# What is broken, and the tests that should notice: those of the module, not whole runs that reach all there is.
MODULES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "losses": (
        ("asu_lora/losses/*",),
        ("tests/losses", "tests/training/test_on_policy.py::test_only_the_last_tokens_before_a_circle_count"),
    ),
    "combine": (("asu_lora/adapters/combine.py",), ("tests/adapters/test_combine_by_hand.py",)),
    "targets": (("asu_lora/teacher/targets.py",), ("tests/teacher/test_targets.py", "tests/losses/test_golden.py")),
    "metrics": (("asu_lora/evaluation/metrics/*",), ("tests/evaluation/metrics",)),
    "scoring": (
        tuple(f"asu_lora/evaluation/{name}.py" for name in ("evaluate", "score", "answer_scores", "likelihoods")),
        (
            "tests/evaluation/test_scoring.py",
            "tests/evaluation/test_likelihoods.py",
            "tests/evaluation/metrics/test_model_utility.py",
            "tests/evaluation/test_evaluate.py::test_every_figure_follows_from_the_records",
            "tests/evaluation/test_evaluate.py::test_scores_without_their_columns_are_missing_not_zero",
        ),
    ),
    "merge": (("asu_lora/merging/merge.py",), ("tests/merging/test_merge_report.py",)),
    "trainer": (
        ("asu_lora/training/trainer.py",),
        ("tests/training/test_trainer_parts.py", "tests/training/test_trainer_checkpoints.py"),
    ),
}
# mutmut gives each mutant 15 times what its tests take unbroken; -k: other processes see no mutant
ARGUMENTS = ("-p", "benchmarks.common.mutation_tests", "-p", "no:cacheprovider")
SELECTED = ("-k", "not two_processes")
DIFFS = """
import json, sys
from mutmut.mutation.diff_apply import find_mutant, get_diff_for_mutant
print(json.dumps({name: get_diff_for_mutant(name, path=find_mutant(name).path) for name in sys.argv[1:]}))
"""
TRY = "from mutmut.__main__ import cli; cli()"
# mutmut has no command for its first half
BREAK = "from mutmut import __main__ as m; m.copy_src_dir(); m.copy_also_copy_files(); m.create_mutants(1)"


def settings(module: str) -> str:
    """mutmut's part of pyproject.toml."""
    broken, tests = MODULES[module]
    values = {
        "source_paths": ["asu_lora"],
        "only_mutate": broken,
        "also_copy": BESIDE,
        "pytest_add_cli_args": ARGUMENTS + SELECTED,
        "pytest_add_cli_args_test_selection": tests,
        "timeout_constant": 10.0,
        "use_git_change_detection": False,
    }
    return "\n[tool.mutmut]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def copy_of(module: str) -> Path:
    """The project as it is now, with the commands inside the package as they are installed."""
    copy = WORK / module
    skip = shutil.ignore_patterns("__pycache__")
    for name in BESIDE:
        if (ROOT / name).is_file():
            copy.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
            continue
        for old in (copy / name, copy / "mutants" / name):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(ROOT / name, copy / name, ignore=skip)
    for source, target in ((ROOT / "asu_lora", copy / "asu_lora"), (ROOT / "cli", copy / "asu_lora" / "cli")):
        # mutmut breaks files anew that are newer than their mutants: those that did not change keep their time
        shutil.copytree(source, target, ignore=skip, copy_function=copy_changed, dirs_exist_ok=True)
    (copy / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + settings(module))
    return copy


def copy_changed(source: str, target: str) -> None:
    if not Path(target).is_file() or Path(target).read_bytes() != Path(source).read_bytes():
        shutil.copyfile(source, target)


def python(copy: Path, code: str, *words: str, shown: bool = False) -> str:
    """What a few lines say that run in the copy; with ``shown`` they say it to the screen, as they go."""
    (WORK / "taught").mkdir(parents=True, exist_ok=True)
    ours = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "ASU_LORA_SHARED": str(ROOT.parent / "shared"),
        "ASU_LORA_MUTATION_BASE": str(WORK / "taught"),
    }
    command = [sys.executable, "-c", code, *words]
    output = None if shown else subprocess.PIPE
    done = subprocess.run(command, cwd=copy, env=ours | dict(os.environ), stdout=output, text=True)
    if done.returncode:
        raise SystemExit(f"mutmut broke off: {done.stdout or 'see above'}")
    return done.stdout or ""


def of_module(module: str) -> dict[str, str]:
    """What came of each of its mutants, by name."""
    return outcomes(WORK / module, MODULES[module][0])


def drawn(module: str, size: int, seed: int) -> list[str]:
    """A random part of its mutants, the same for the same seed; all of them for size 0."""
    names = sorted(of_module(module))
    return sorted(random.Random(seed).sample(names, size)) if 0 < size < len(names) else names


def run(module: str, again: bool, size: int, seed: int) -> None:
    """Try the mutants of a module that were not tried yet, or with ``again`` those that lived too."""
    copy = copy_of(module)
    python(copy, BREAK)
    found = of_module(module)
    wanted = ("not run",) + (("survived", "no test", "timeout", "other") if again else ())
    left = [name for name in drawn(module, size, seed) if found[name] in wanted]
    if left:
        python(copy, TRY, "run", "--max-children", "1", *left, shown=True)


def summary(module: str, size: int, seed: int) -> dict:
    """What came of the mutants of a module, by file; of each that lives: outcome, the line before, the line now.

    Of a sample those outside count as not run, whatever came of them: they were not drawn.
    """
    copy, sample = WORK / module, set(drawn(module, size, seed))
    found = {name: outcome if name in sample else "not run" for name, outcome in of_module(module).items()}
    alive = {name: outcome for name, outcome in found.items() if outcome not in ("killed", "not run")}
    diffs = json.loads(python(copy, DIFFS, *alive))
    return {
        "date": datetime.date.today().isoformat(),
        "sample": {"size": len(sample), "seed": seed} if len(sample) < len(found) else None,
        "files": counts(found),
        "alive": {name: [outcome, *change(diffs[name])] for name, outcome in alive.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="module", help=f"some of {', '.join(MODULES)}; by default all")
    parser.add_argument("--again", action="store_true", help="also try those again that lived")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="try N of each module; by default all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--report", action="store_true", help="try none: only write the page")
    arguments = parser.parse_args()
    if unknown := set(arguments.modules) - set(MODULES):
        parser.error(f"there is no module {', '.join(sorted(unknown))}: choose from {', '.join(MODULES)}")
    for module in arguments.modules or MODULES:
        if not arguments.report:
            run(module, arguments.again, arguments.sample, arguments.seed)
        found = read_data("mutants", {})
        if of_module(module):
            earlier = (found.get(module) or {}).get("sample") if arguments.report else None
            size, seed = (earlier["size"], earlier["seed"]) if earlier else (arguments.sample, arguments.seed)
            found[module] = summary(module, size, seed)
            write_data("mutants", found)
            write_table("mutants", page(found))


if __name__ == "__main__":
    main()
