"""`--retain auto` against as many random rows of the same pool: what rows in neither set keep.

    python benchmarks/retain_auto.py BASE TOFU --rows 40 --seeds 0,1

BASE is the checkpoint that ../shared/tofu_smollm2/build_base.py writes, TOFU the folder of TOFU's JSON files. The 20
questions about one author are forgotten. Of the 260 other memorised rows every fourth is left out and measured. The
pool holds the others, world facts, real authors and the built-in general questions. Steps of 2 forget and 4 retain
rows, 50 of them by default; all else as `asu-lora forget` has it. Runs that stand in the results are not made again.
Writes docs/results/retain_auto.md and data/retain_auto.json.
"""

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from asu_lora import ForgetConfig, ForgetRequest, forget, load
from asu_lora.cli.progress import Bars
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.data.examples import Example, examples_from_rows
from asu_lora.data.reading import read_rows
from asu_lora.data.request import general_retain
from asu_lora.data.retain_pool import RetainPool
from asu_lora.evaluation.metrics.rouge import rouge_l_recall
from asu_lora.models.adapter_stack import Stack
from asu_lora.models.hidden_states import answer_logprobs, hidden_states
from asu_lora.models.loading import load_base
from asu_lora.retain.nearness import look_at
from common.before_after import before_after_table
from common.results import read_data, write_data, write_table
from common.tofu_request import request_for

HEADING = "# Retain rows chosen by `--retain auto`, and at random\n\n"
HOW, BATCH, EVERY, FORGOTTEN = ("auto", "random"), 2, 4, 20


def sets_of(tofu: Path) -> tuple[list[Example], ...]:
    """What is forgotten, the pool (memorised rows, and others), and the memorised rows that are in neither."""
    request, _ = request_for(tofu, "1", left_out=False)
    gone, known = request.forget[:FORGOTTEN], [*request.forget[FORGOTTEN:], *request.retain]
    left_out, memorised = known[::EVERY], [row for at, row in enumerate(known) if at % EVERY]
    far = [row for name in ("world_facts", "real_authors") for row in read_rows(tofu / f"{name}_perturbed.json")]
    return list(gone), memorised, [*examples_from_rows(far, "far rows"), *general_retain()], left_out


def probabilities(stack: Stack, rows: Sequence[Example]) -> list[float]:
    """exp(-mean NLL of the answer tokens) of each row."""
    base, items = stack.base, stack.encoder().encode_all(rows)
    states = hidden_states(stack.model, items, base.pad_id)
    return [float(each.mean().exp()) for each in answer_logprobs(base.head, items, states)]


def figures(stack: Stack, gone: Sequence[Example], left_out: Sequence[Example], asked: int) -> dict[str, float]:
    some = left_out[:: max(1, len(left_out) // asked)]
    answers = stack.ask([row.question for row in some])
    return {
        "forget probability": mean(probabilities(stack, gone)),
        "left-out probability": mean(probabilities(stack, left_out)),
        "left-out ROUGE-L": mean(rouge_l_recall(row.answer, said) for row, said in zip(some, answers, strict=True)),
    }


def run(base: Path, tofu: Path, key: dict, asked: int) -> dict:
    """One run, and what it left."""
    gone, memorised, far, left_out = sets_of(tofu)
    pool = [*memorised, *far]
    if key["how"] == "auto":
        request = ForgetRequest(tuple(gone), (), "pool", "run", RetainPool(tuple(pool), key["rows"]))
    else:
        chosen = random.Random(key["seed"]).sample(pool, key["rows"])
        request = ForgetRequest(tuple(gone), tuple(chosen), "rows", "run")
    config = ForgetConfig(
        seed=key["seed"], batch_size=BATCH, epochs=key["steps"] * BATCH / FORGOTTEN, eval_rows=0, tau=key["tau"]
    )
    loaded = load_base(str(base))
    with tempfile.TemporaryDirectory() as store:
        result = forget(request, loaded, config, name="run", store=store, progress=Bars())
        kept = result.record.request.retain
        near = look_at(loaded, gone, kept).near
        stack = load(loaded, ["run"], store)
        after = figures(stack, gone, left_out, asked)
        with stack.without_adapters():
            before = figures(stack, gone, left_out, asked)
    return key | {
        "figures": {name: [round(before[name], 4), round(after[name], 4)] for name in after},
        "near rows": near,
        "memorised rows": sum(row in memorised for row in kept),
        "training seconds": round(result.record.training["train_seconds"]),
    }


def table(runs: list[dict]) -> str:
    heads = [f"`{each['how']}`, {each['rows']} rows, seed {each['seed']}" for each in runs]
    return before_after_table(runs, heads, ("near rows", "memorised rows", "training seconds"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("tofu", type=Path)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--tau", type=float, default=3.826, help="what auto finds for this request and base")
    parser.add_argument("--asked", type=int, default=20, help="left-out questions that are answered")
    arguments = parser.parse_args()
    quiet_libraries()
    runs = read_data("retain_auto", [])
    for seed in map(int, arguments.seeds.split(",")):
        for how in HOW:
            key = {"how": how, "seed": seed} | {name: getattr(arguments, name) for name in ("rows", "steps", "tau")}
            if not any(all(each.get(name) == value for name, value in key.items()) for each in runs):
                runs.append(run(arguments.base, arguments.tofu, key, arguments.asked))
                write_data("retain_auto", runs)
            command = f"`python benchmarks/retain_auto.py BASE TOFU --rows {arguments.rows} --seeds {arguments.seeds}`"
            write_table("retain_auto", f"{HEADING}{command}: each figure before and after.\n\n{table(runs)}")
    print(table(runs))


if __name__ == "__main__":
    main()
