"""``asu-lora audit NAME``: the attacks, their controls, and what comes out."""

import sys
from typing import TYPE_CHECKING

import click

from asu_lora.cli.completion import attack_names
from asu_lora.cli.console import print_json, print_table, readable, stderr
from asu_lora.cli.help_pages import GroupedCommand, GroupedOption
from asu_lora.cli.options import (
    adapter_names,
    base_option,
    json_option,
    machine_options,
    retain_option,
    row_options,
    store_option,
    where_option,
)

if TYPE_CHECKING:
    from asu_lora.audit.results import AttackResult, AuditResult, Rate

READ = ("forget", "retain", "floor", "paraphrases", "insisting", "retain_log", "tune_on")  # files, by their options
OVER = 3  # exit code where more was recovered than --fail-over allows
file = click.Path(dir_okay=False)


@click.command(cls=GroupedCommand, short_help="Attack base + adapters for what they were to forget.")
@click.argument("adapters", shell_complete=adapter_names, nargs=-1, metavar="[NAME[:WEIGHT]]...")
@click.option("--forget", metavar="FILE", help="What was to be forgotten.  [required]")
@where_option
@retain_option(" Neighbours in context and for tuning are taken from it.")
@click.option("--merged", metavar="DIR", help="Audit this folder of merged weights instead of adapters.")
@click.option(
    "--floor", metavar="FILE", help="Rows like FILE's that the base never saw: what is said of them is chance."
)
@click.option("--floor-base", metavar="DIR", help="A model that never saw the request: the better floor.")
@click.option(
    "--control",
    metavar="NAME",
    shell_complete=adapter_names,
    help="An adapter of the same size and steps, trained on other rows; 'auto' trains one on kept rows.",
)
@click.option(
    "--paraphrases",
    cls=GroupedOption,
    group="Attacks",
    metavar="FILE",
    help="Your own: 'question' and 'paraphrased_question'.",
)
@click.option(
    "--insisting",
    cls=GroupedOption,
    group="Attacks",
    metavar="FILE",
    help="Your own ways to insist: 'user' with {question} in it, and if need be 'system' and 'begin'.",
)
@click.option(
    "--retain-log",
    cls=GroupedOption,
    group="Attacks",
    metavar="FILE",
    help="The 'evaluate --records' of a model trained without the rows, or its log of TOFU or open-unlearning: gives "
    "forget quality.",
)
@click.option(
    "--tune-on", cls=GroupedOption, group="Attacks", metavar="FILE", help="Rows for the attacker's own fine-tuning."
)
@click.option(
    "--attacks",
    metavar="NAMES",
    shell_complete=attack_names,
    help="Attacks, or kinds of them, with commas between.  [default: the depth's]",
)
@click.option("--list", "listing", is_flag=True, help="Show the attacks and end.")
@click.option("--quick", "depth", flag_value="quick", help="Fewer rows and tries: about two minutes on a small base.")
@click.option("--full", "depth", flag_value="full", help="Every attack at its widest.")
@click.option("--budget", metavar="TIME", help="End after this: 90s, 10m, 1h. The most telling attacks come first.")
@click.option(
    "--samples",
    cls=GroupedOption,
    group="Attacks",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Answers drawn of a row by sampling.  [default: the depth's]",
)
@click.option(
    "--seed",
    cls=GroupedOption,
    group="Attacks",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of everything random.",
)
@click.option(
    "--fail-over",
    type=click.FloatRange(0),
    metavar="SHARE",
    help="Exit with 3 if any attack on the knowledge recovered more than this share (first figures). Membership and "
    "traces don't count: they recover no fact.",
)
@click.option(
    "--records",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Write what was asked and answered here. It holds the request's text.",
)
@click.option("--out", "-o", type=file, help="Write the result here.  [default: audit.json in the audited folder]")
@click.option(
    "--replace", is_flag=True, help="Take the place of a wider audit, or of other weights, beside the adapter."
)
@base_option
@store_option
@row_options("the adapters', else 1024")
@machine_options
@json_option
def run(*, adapters, attacks, depth, budget, seed, samples, fail_over, out, replace, where, as_json, listing, **asked):
    """Attack base + adapters (or --merged) for what they were to forget.

    \b
      asu-lora audit request --forget request.jsonl --retain keep.jsonl --floor unseen.jsonl
      asu-lora audit request --forget request.jsonl --quick --fail-over 0.1
      asu-lora audit --merged OUT --base BASE --forget request.jsonl --attacks asking,precision

    Every figure stands beside what the base said (ceiling) and what chance says (floor), and recovered is
    (attack - floor) / (ceiling - floor). An audit that was interrupted goes on when the same command is typed again.
    """
    if listing:
        return list_attacks(as_json)
    if asked["forget"] is None:
        raise click.UsageError("Missing option '--forget'.")
    from asu_lora.cli.progress import Bars
    from asu_lora.cli.quiet import quiet_libraries
    from asu_lora.files import refuse_to_replace

    if out is not None:
        refuse_to_replace(out, (asked[name] for name in READ))
    with stderr().status("Loading ..."):
        quiet_libraries()
        from asu_lora.audit.gate import check_gate, gate
        from asu_lora.audit.on_file import why_apart
        from asu_lora.audit.request import AuditRequest
        from asu_lora.audit.run import audit
        from asu_lora.audit.save import save_audit
        from asu_lora.audit.settings import AuditSettings, seconds

    names = (
        tuple(name.strip() for name in readable(attacks).split(",") if name.strip()) if attacks is not None else None
    )
    settings = AuditSettings(names, depth or "standard", seconds(budget) if budget else None, seed, samples)
    if fail_over is not None:
        check_gate(settings)
    request = AuditRequest(adapters=adapters, where=dict(where), **asked)
    with Bars() as progress:
        result = audit(request, settings, progress)
    apart = None if out else why_apart(result, request, replace=replace)
    written = save_audit(result, request, out, replace=replace)
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        show(result)
    click.echo(
        f"Written: {written}; " + (apart or "'asu-lora audit certify' signs what stands beside an adapter."), err=True
    )
    if fail_over is not None:
        found = gate(result, fail_over)
        click.echo(found.says, err=True)
        if not found.passed:
            sys.exit(OVER)


def show(result: "AuditResult") -> None:
    """A row a figure, the counting one of each attack first; then the finding, its limits, and what wasn't tried."""
    from asu_lora.audit.certificate.wording import plain, verdict

    rows = [
        (
            attack.attack if not at else "",
            reading.figure.replace("_", " "),
            _rate(reading.candidate),
            _rate(reading.floor),
            _rate(reading.ceiling),
            _rate(reading.control),
            _back(attack, reading.recovered),
        )
        for attack in result.attacks
        for at, reading in enumerate(attack.readings)
    ]
    columns = ("attack", "figure", "found", "floor", "ceiling", "control", "recovered")
    print_table(None, columns, rows, right=tuple(range(2, len(columns))), wrap=(0, 1))
    for sentence in verdict(result.attacks):
        click.echo(plain(sentence))
    for note in dict.fromkeys(note for attack in result.attacks for note in attack.notes):
        click.echo(note)
    for untried in result.untried:
        click.echo(f"Not tried: {untried.attack}. {untried.reason}")


def _rate(rate: "Rate | None") -> str:
    return "-" if rate is None else f"{rate.value:.2f} ({rate.low:.2f}-{rate.high:.2f})"


def _back(attack: "AttackResult", share: float | None) -> str:
    """The recovered share; what only tells rows apart brings nothing back, and is called so."""
    if share is None:
        return "-"
    return f"{share:.0%}" if attack.of_knowledge else f"apart {share:.0%}"


def list_attacks(as_json: bool) -> None:
    """Every attack, its kind, and what it tries."""
    from asu_lora.cli.quiet import quiet_libraries

    quiet_libraries()
    from asu_lora.audit.registry import ATTACKS

    columns, rows = ("attack", "kind", "tries"), [(a.name, a.kind, a.says) for a in ATTACKS.values()]
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(None, columns, rows, wrap=(2,))
