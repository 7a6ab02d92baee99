"""asu-lora continual: requests one after another, and the curve that shows what holds."""

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from asu_lora.adapters.adapter_spec import as_typed
from asu_lora.cli.config_options import given_settings, read_config, setting_options
from asu_lora.cli.help_pages import GroupedCommand
from asu_lora.cli.options import base_option, json_option, out_option, retain_option, scoring_models_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asu_lora.studies.continual.report import Records
    from asu_lora.studies.continual.take_back import TakenBack

STUDY = ("retain", "by", "steps", "questions", "data", "encoder", "nli", "take_back")  # fields of ContinualConfig


@click.command(cls=GroupedCommand, short_help="Unlearn requests one after another, and score every step.")
@click.option(
    "--requests",
    "-f",
    multiple=True,
    required=True,
    metavar="FILE|DIR",
    help="The requests in order: a file each, or a folder whose files come in the order of their names. Repeatable.",
)
@click.option(
    "--by",
    metavar="COLUMN",
    help="Split each file into requests by this column (--by task_id), in the order its values first appear.",
)
@click.option("--steps", type=click.IntRange(1), help="Only the first requests.  [default: all]")
@base_option
@retain_option(" From the step that asks one of its questions on, that row is left out.")
@click.option(
    "--method",
    "-m",
    metavar="NAME,...",
    help="FORGET_RETAIN, such as ASU_KL; several give a line each in "
    "the figure. ASU_KL=1e-3 gives a method its own learning rate.  [default: --objective and --retain-loss]",
)
@click.option(
    "--mode",
    type=click.Choice(["stack", "orthogonal", "independent", "fitted", "running"]),
    default="stack",
    show_default=True,
    help="What a step is trained on: the stack of all adapters so far; the same, with "
    "the new adapter kept orthogonal to what they read; the plain base, and then added, for which "
    "--adds-up is made; the same, at weights at which the sum forgets each request as its adapter alone does; or one "
    "running adapter that every step trains further.",
)
@click.option(
    "--consolidate-every",
    type=click.IntRange(0),
    default=0,
    metavar="K",
    help="Make all active adapters one after every K steps.  [default: never]",
)
@click.option(
    "--consolidate-rank", type=click.IntRange(1), metavar="R", help="Cut that adapter to this rank.  [default: exact]"
)
@out_option("Folder for the adapters (OUT/METHOD/adapters), table, figure and state.", "continual")
@click.option(
    "--questions",
    type=click.IntRange(0),
    default=40,
    show_default=True,
    help="Most questions of a request "
    "or set that are scored; five times as many over everything so far. 0 scores nothing.",
)
@click.option(
    "--data",
    metavar="DIR",
    help="Folder of TOFU's files, or locuslab/TOFU: adds its real authors and world "
    "facts, without which MU is missing values.",
)
@scoring_models_options
@click.option(
    "--take-back",
    type=click.IntRange(1),
    metavar="STEP",
    help="At the end, score every request again without this step's adapter; the store stays as it is.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with the run that lies in OUT; requests added at the end are done too."
)
@json_option
@partial(setting_options, without=("orthogonal",))  # --mode says it
def continual(*, requests, base, method, mode, out, resume, as_json, config, **others):
    """Unlearn requests in the order they came: one adapter each, scored after every step.

    \b
      asu-lora continual --requests tickets/ --retain keep.jsonl
      asu-lora continual --requests forget01.json --by task_id --steps 3 --method ASU_KL,NPO_GD --data TOFU

    After each step: MU, FE of its request, FE over everything so far, FE of the first request again, gibberish,
    time and size, as table, CSV, JSON, Markdown and figure in OUT. A stopped run goes on with --resume, where it was.

    \b
      asu-lora ask "..." --store continual/ASU_KL/adapters --adapter 001-a --adapter 002-b
    """
    history = {name: others.pop(name) for name in ("consolidate_every", "consolidate_rank")}
    study = {name: others.pop(name) for name in STUDY}
    study["given"] = given_settings(config, others)
    config = read_config(config, others, papers=method is None)
    from asu_lora.cli.progress import Bars
    from asu_lora.cli.quiet import quiet_libraries

    quiet_libraries()
    from asu_lora.studies.continual.continual import ContinualConfig, run_methods
    from asu_lora.studies.continual.history import HistoryConfig
    from asu_lora.studies.methods import file_name

    study |= {"most_steps": study.pop("steps"), "methods": method, "history": HistoryConfig(mode, **history)}
    try:
        with Bars() as progress:
            records, taken, written = run_methods(
                requests, base, config, out, ContinualConfig(**study), resume=resume, progress=progress
            )
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(
            "Interrupted: the steps done so far are kept; the same command with --resume goes on in the step it was in."
        ) from interrupt
    if as_json:
        return show_json(records, taken)
    show(records, taken)
    click.echo(f"Written: {', '.join(str(path) for path in written)}")
    name, last = next((name, found[-1]) for name, found in records.items())
    active = "".join(f" --adapter {adapter}" for adapter in as_typed(last.active))
    return click.echo(f'Ask it:  asu-lora ask "..." --base {base} --store {out / file_name(name) / "adapters"}{active}')


def show_json(records: "Records", taken: "Mapping[str, TakenBack]") -> None:
    """Every step of every method, and what taking one back did."""
    from dataclasses import asdict

    from asu_lora.cli.console import print_json

    found: dict[str, Any] = {name: [asdict(record) for record in steps] for name, steps in records.items()}
    if taken:
        found["taken_back"] = {name: asdict(scores) for name, scores in taken.items()}
    print_json(found)


def show(records: "Records", taken: "Mapping[str, TakenBack]") -> None:
    """The table of steps, and a table of each method's step that was taken back."""
    from asu_lora.cli.console import print_table
    from asu_lora.reporting.tables import number
    from asu_lora.studies.continual.report import other_questions, table, taken_rows

    headings, rows = table(records)
    print_table(None, headings, rows, right=tuple(range(1, len(headings))))
    for name, steps in records.items():
        for sentence in filter(None, other_questions(name, steps)):
            click.echo(sentence, err=True)
    for name, found in taken.items():
        print_table(
            f"{name}: step {found.number} taken back",
            ("", "before", "after"),
            [(what, *(number(score, 1) for score in scores)) for what, *scores in taken_rows(found)],
            right=(1, 2),
        )
