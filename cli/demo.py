"""asu-lora demo: the main job on a real model, in minutes, without a download."""

from typing import TYPE_CHECKING, Any

import click

from asu_lora.cli.options import json_option, store_option

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asu_lora.demo.harry_potter import Asked, DemoResult


MOST = 160  # characters of an answer that are shown


@click.command(short_help="Forget Harry Potter: the main job on a real model, in minutes.")
@store_option
@click.option("--name", "-n", default="harry-potter", show_default=True, help="The adapter's name in the store.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@click.option("--replace", is_flag=True, help="Replace an adapter of this name that an earlier run left.")
@json_option
def demo(store, name, seed, replace, as_json):
    """Make SmolLM2-135M forget Harry Potter, and show what it says before and after.

    The model (4-bit, on the CPU or a GPU) knows Hogwarts and Voldemort, capitals and Einstein. One adapter is
    trained into the store; then questions it was never trained on are asked: paraphrases, which should no
    longer yield the fact, and controls, which should.
    """
    from asu_lora.cli.console import print_json, stderr
    from asu_lora.cli.forget_report import report
    from asu_lora.cli.progress import Bars
    from asu_lora.cli.quiet import quiet_libraries

    with stderr().status("Starting ..."):
        quiet_libraries()
        from asu_lora.bases.smollm2 import EMBEDDED
        from asu_lora.config import ForgetConfig
        from asu_lora.demo.harry_potter import run_demo
    # --no-adds-up: it leaves less of what a base knows from everywhere; half the memory: two forward passes a step
    config = ForgetConfig(seed=seed, batch_size=2, grad_accum=2, eval_rows=32)
    with Bars() as progress:
        result = run_demo(store, name, config, progress, replace=replace)
    parts = {
        "forget questions": result.forget,
        "held-out paraphrases": result.heldout,
        "control questions": result.controls,
    }
    if as_json:
        return print_json(_as_dict(result, parts))
    _show(parts)
    report(result.run, EMBEDDED, store)
    return None


def _as_dict(result: "DemoResult", parts: "Mapping[str, Sequence[Asked]]") -> dict[str, Any]:
    """What ``--json`` prints."""
    from asu_lora.cli.forget_report import as_dict

    return as_dict(result.run) | {
        "questions": {title: [vars(asked) for asked in part] for title, part in parts.items()}
    }


def _show(parts: "Mapping[str, Sequence[Asked]]") -> None:
    """A table of answers for each part, and how often a fact was yielded."""
    from asu_lora.cli.console import print_table

    for title, part in parts.items():
        shown = [a for a in part if a.yielded_before][:6] or part[:6]
        print_table(
            f"\n{title.capitalize()}",
            ("question", "before", "after"),
            [(a.question, _short(a.before), _short(a.after)) for a in shown],
            wrap=(0, 1, 2),
        )
    print_table(
        "\nFacts yielded",
        ("questions", "asked", "before", "after"),
        [
            (title, len(part), sum(a.yielded_before for a in part), sum(a.yielded_after for a in part))
            for title, part in parts.items()
            if title != "forget questions"
        ],
        right=(1, 2, 3),
    )


def _short(answer: str) -> str:
    answer = " ".join(answer.split())
    return answer if len(answer) <= MOST else answer[: MOST - 2].rstrip() + " …"
