"""asu-lora probe: which words a smoothed teacher loses, at which tau."""

from typing import TYPE_CHECKING

import click

from asu_lora.cli.options import base_option, json_option, machine_options, out_option, row_options, where_option
from asu_lora.studies.probe.grid import DEFAULT_GROUPS, DEFAULT_TAUS, parse_taus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from asu_lora.studies.probe.probe import Probe

HEADS = (
    "tau",
    "NLL\nfactual",
    "NLL\nfunction",
    "NLL\ncopied",
    "entropy\nfactual",
    "entropy\nfunction",
    "teacher\nROUGE",
    "teacher\ngibber.",
)


@click.command(short_help="Which words a smoothed teacher loses, and at which tau.")
@click.argument("file")
@base_option
@click.option(
    "--tau",
    "grid",
    default=DEFAULT_TAUS,
    show_default=True,
    metavar="GRID",
    help="Temperatures: FIRST:LAST:STEP, such as 1:4:0.5, or a list. 1, the base, is always measured.",
)
@click.option(
    "--layers",
    multiple=True,
    metavar="LAYERS",
    help="A group of decoder layers to smooth: all, lower, "
    "middle, upper (thirds), or ranges such as 4-20; repeat it for several.  [default: these four]",
)
@out_option("Folder for the figure (SVG, PDF, PNG), probe.json and probe.csv. They hold no text of FILE.", "probe")
@where_option
@click.option(
    "--question-words",
    type=click.Choice(["apart", "function"]),
    default="apart",
    show_default=True,
    help="Answer words that stand in the question: a class of their own, or function words.",
)
@click.option(
    "--questions", type=click.IntRange(1), default=40, show_default=True, help="Most rows of FILE, spread evenly."
)
@click.option(
    "--answers",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Most questions that each smoothed model answers itself; 0 for none.",
)
@row_options("512")
@machine_options
@json_option
def probe(
    *,
    file,
    base,
    grid,
    layers,
    out,
    where,
    question_words,
    questions,
    answers,
    precision,
    device,
    trust_remote_code,
    as_json,
    **rows,
):
    """Heat the attention of a base and see which words of FILE's answers it loses.

    \b
      asu-lora probe request.jsonl
      asu-lora probe request.jsonl --base my-model --tau 1:4:0.5 --layers upper --layers 0-9

    FILE is what 'asu-lora forget' takes. By forward passes alone, for every temperature and group of layers: the
    mean NLL and the attention entropy of factual and of function tokens, and how the smoothed model itself answers.
    The recommended tau is the one that 'forget --tau auto' chooses, unless that teacher no longer writes sentences:
    then it is a lower one.

    Which words are facts is read off English function words; a row's field 'spans' says it better: a list of texts
    of the answer, or of [start, end] pairs of characters. The other words of that answer are then no facts.
    """
    from asu_lora.cli.console import print_json, stderr
    from asu_lora.cli.progress import Bars
    from asu_lora.cli.quiet import quiet_libraries
    from asu_lora.data.request import ForgetRequest
    from asu_lora.files import check_writable

    taus = parse_taus(grid)
    examples = ForgetRequest.from_files(file, None, dict(where)).forget
    with stderr().status("Loading the base ..."):
        quiet_libraries()
        from asu_lora.data.row_format import RowFormat
        from asu_lora.models.loading import load_base
        from asu_lora.models.stack_rows import rows_of_adapters
        from asu_lora.studies.probe.probe import ProbeConfig
        from asu_lora.studies.probe.probe import probe as measure
        from asu_lora.studies.probe.report import as_dict, write_report

        check_writable(out)
        loaded = load_base(base, precision, device, trust_remote_code=trust_remote_code)
    rows["max_length"] = rows["max_length"] or RowFormat.max_length
    written, _ = rows_of_adapters((), loaded.tokenizer, rows)
    chosen = ProbeConfig(taus, layers or DEFAULT_GROUPS, question_words, questions, answers, written)
    with Bars() as progress:
        result = measure(examples, loaded, chosen, progress)
    files = write_report(result, out)
    if as_json:
        print_json(as_dict(result))
    else:
        report(result, files)


def report(result: "Probe", files: "Sequence[Path]") -> None:
    """A table a layer group, the recommended tau and why, and where the files lie."""
    from asu_lora.cli.console import print_table
    from asu_lora.reporting.tables import number

    for group, points in result.curves:
        rows = [
            (
                f"{p.tau:g}",
                *(number(p.nll[name]) for name in ("factual", "function", "copied")),
                *(number(p.entropy[name]) for name in ("factual", "function")),
                *(number(getattr(p.teacher, name) if p.teacher else None) for name in ("rouge", "gibberish_rate")),
            )
            for p in points
        ]
        print_table(
            f"\nLayers {group.label}: NLL and attention entropy in nats, teacher's answers as shares",
            HEADS,
            rows,
            right=tuple(range(len(HEADS))),
        )
    tokens = ", ".join(f"{count} {name}" for name, count in result.tokens.items() if count)
    click.echo(f"\n{result.rows} rows ({tokens} tokens), {result.answers} of them answered by each smoothed model.")
    chosen = result.recommended
    click.echo(
        f"Recommended for layers '{chosen.layers}': "
        + (f"tau {chosen.tau:g}" if chosen.tau else "none")
        + f". Why: {chosen.reason}"
    )
    for note in result.notes:
        click.echo(note, err=True)
    click.echo("Files: " + ", ".join(map(str, files)))
