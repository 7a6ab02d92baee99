"""``asu-lora merge``: adapters baked into the base's weights."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asu_lora.cli.adapters.check import note_on_weights
from asu_lora.cli.console import print_json, stderr
from asu_lora.cli.options import (
    adapter_option,
    base_option,
    is_typed,
    json_option,
    out_option,
    remote_code_option,
    store_option,
)
from asu_lora.errors import AsuLoraError

if TYPE_CHECKING:
    from asu_lora.bases.source import BaseSource
    from asu_lora.data.examples import Example
    from asu_lora.merging.check import CheckReport
    from asu_lora.merging.durable.durable_rounding import DurableSettings
    from asu_lora.merging.report import MergeReport

CAME_BACK = 3  # the exit code of a check that fails


EXPLANATION = """Write the base with adapters baked in: weights to publish, which plain transformers loads.

\b
  asu-lora merge --adapter harry-potter --out smollm2-without-potter
  asu-lora merge --base B --adapter anna --adapter ben:0.5 --out merged --precision nf4

The base is read and written tensor by tensor, so that a model far larger than the memory can be merged.
All updates are added up in fp32 and rounded once, to the precision asked for; nf4 is bitsandbytes' 4-bit
layout.

An adapter trained on the NF4 base has learnt to correct the weights as NF4 shows them, so it is merged
onto these, whatever the precision; --onto original adds it to the original weights instead.

Rounding takes forgetting back: an update smaller than half a step vanishes. What each module lost is
measured and the worst are printed. "Lost" is the share of the update, along its own direction, that is no
longer there; "noise" is what rounding changed, as a multiple of the update. --json has all modules.

Whether forgotten answers came back is what --check measures, at every precision the merged model may be
deployed in (nf4 and int8 also by quantising it on loading). With p the mean answer probability, or ROUGE-L
recall, of the forget questions, the share that came back is (p_merged - p_adapters) / (p_base - p_adapters);
a figure that the adapters lowered by less than 0.05 is not judged, nor is ROUGE-L where the questions are
too few to tell its change from chance; where no figure is left it is said that the check can't tell. The
precision that was written decides:

\b
  asu-lora merge -a request -o out -p nf4 --check request.jsonl --check-retain keep.jsonl
  exit code 0: it still forgets   3: more than --tolerance came back   2: something was wrong

In 4 bit, rounding to nearest loses nearly all of an adapter that was trained on NF4. --durable moves a few
weights by a whole step instead, so that each layer answers these questions as it did with the adapters. It
loads the base in NF4 to see what the layers are fed, and holds up to 2 GiB of that:

\b
  asu-lora merge -a request -o out -p nf4 --durable --check request.jsonl --check-retain keep.jsonl

--residual-rank 2 adds a small plain PEFT adapter for what is still lost; load it onto OUT, always.
"""


@click.command(help=EXPLANATION, short_help="Write the base with adapters baked in: weights to publish.")
@base_option
@adapter_option
@out_option("The folder to write; it must not hold anything yet.")
@click.option(
    "-p",
    "--precision",
    type=click.Choice(["bf16", "fp16", "fp32", "nf4"]),
    default="bf16",
    show_default=True,
    help="What the merged weights are stored in.",
)
@click.option(
    "--format",
    "-f",
    "format_",
    type=click.Choice(["safetensors", "gguf"]),
    default="safetensors",
    show_default=True,
    help="gguf: also print the one command that makes OUT a GGUF file, with llama.cpp's converter.",
)
@click.option(
    "--onto",
    type=click.Choice(["quantized", "original"]),
    help="Add to the weights as NF4 shows them, or to the original ones.  [default: what the adapters were trained on]",
)
@click.option(
    "--check",
    metavar="FILE",
    help="Measure these questions, which were to be forgotten, on the base, "
    "on base + adapters and on the merged model at every precision; exit with 3 if they came back.",
)
@click.option(
    "--check-retain",
    metavar="FILE",
    help="Questions that were to be kept: measured beside, and looked at "
    "by --durable.  [default for --durable: built-in general questions]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="The share of what was forgotten that --check lets come back.",
)
@click.option(
    "--durable",
    is_flag=True,
    help="With nf4: choose the 4-bit numbers so that the model still forgets. "
    "Looks at the questions of --calibration, else of --check.",
)
@click.option(
    "--calibration",
    metavar="FILE",
    help="The questions to be forgotten that --durable looks at.  [default: those of --check]",
)
@click.option(
    "--residual-rank",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="R",
    help="With --durable: write what rounding lost as a LoRA of this rank, OUT/residual-adapter.",
)
@click.option(
    "--shard-size",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="GB",
    help="The largest file.",
)
@remote_code_option
@store_option
@json_option
def merge(
    *,
    base: str,
    adapters: tuple[str, ...],
    out: Path,
    precision: str,
    format_: str,
    onto: str | None,
    check: str | None,
    check_retain: str | None,
    tolerance: float,
    durable: bool,
    calibration: str | None,
    residual_rank: int,
    shard_size: float,
    trust_remote_code: bool,
    store: Path,
    as_json: bool,
) -> None:
    """Explained in EXPLANATION."""
    _refuse_contradictions(precision, format_, check, check_retain, durable, calibration, residual_rank)
    from asu_lora.cli.quiet import quiet_libraries

    quiet_libraries()
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.bases.source import resolve_base
    from asu_lora.cli.merge_tables import convert_command
    from asu_lora.data.request import read_examples
    from asu_lora.merging.merge import merge as write_merged
    from asu_lora.models.adapter_stack import adapter_folders

    chosen = adapter_folders(adapters, AdapterStore(store), fit=True)
    asked = read_examples(check) if check else []
    kept = read_examples(check_retain) if check_retain else []
    looked_at = read_examples(calibration) if calibration else asked
    source = resolve_base(base)
    with _bar() as progress:
        task = progress.add_task(f"Merging into {precision}", total=None)
        report = write_merged(
            source,
            chosen,
            out,
            precision,
            onto=onto,
            shard_size=int(shard_size * 1e9),
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            trust_remote_code=trust_remote_code,
            durable=_durable(looked_at, kept, residual_rank) if durable else None,
        )
    note_on_weights(adapters, chosen, source)
    convert = convert_command(out, precision) if format_ == "gguf" else None
    checked, refused = None, None
    if check:
        checked, refused = _checked(source, chosen, report, asked, kept, tolerance, trust_remote_code)
    _tell(report, checked, convert, as_json)
    if refused:
        raise refused
    if checked and not checked.passed:
        raise SystemExit(CAME_BACK)


def _tell(report: "MergeReport", checked: "CheckReport | None", convert: str | None, as_json: bool) -> None:
    from asu_lora.cli.merge_tables import tell

    if not as_json:
        return tell(report, checked, convert)
    more = {"check": checked.as_dict()} if checked else {}
    print_json(report.as_dict() | more | ({"convert": convert} if convert else {}))


def _refuse_contradictions(
    precision: str,
    format_: str,
    check: str | None,
    check_retain: str | None,
    durable: bool,
    calibration: str | None,
    residual_rank: int,
) -> None:
    if format_ == "gguf" and precision == "nf4":
        raise click.UsageError("llama.cpp doesn't read nf4: merge to bf16, fp16 or fp32, and quantise the GGUF file.")
    if durable and precision != "nf4":
        raise click.UsageError(f"--durable is for --precision nf4; {precision} keeps the update as it is.")
    if durable and not (calibration or check):
        raise click.UsageError("--durable needs the questions that were to be forgotten: --check or --calibration.")
    if residual_rank and not durable:
        raise click.UsageError("--residual-rank goes with --durable.")
    if calibration and not durable:
        raise click.UsageError("--calibration goes with --durable.")
    if check_retain and not (check or durable):
        raise click.UsageError("--check-retain goes with --check or --durable.")
    if is_typed("tolerance") and not check:
        raise click.UsageError("--tolerance goes with --check.")


def _durable(looked_at: "list[Example]", kept: "list[Example]", residual_rank: int) -> "DurableSettings":
    from asu_lora.data.request import general_retain
    from asu_lora.merging.durable.durable_rounding import DurableSettings

    return DurableSettings(looked_at, kept or general_retain(looked_at), residual_rank)


def _checked(
    source: "BaseSource",
    adapters: list[tuple[Path, float]],
    report: "MergeReport",
    asked: "list[Example]",
    kept: "list[Example]",
    tolerance: float,
    trust_remote_code: bool,
) -> "tuple[CheckReport | None, AsuLoraError | None]":
    """The check, or why there is none: what was written is whole all the same, and is told of."""
    from asu_lora.cli.progress import Bars
    from asu_lora.merging.check import check

    try:
        with Bars() as bars:
            found = check(
                source,
                adapters,
                report.out,
                report.written_as,
                asked,
                kept,
                tolerance=tolerance,
                onto=report.onto,
                trust_remote_code=trust_remote_code,
                progress=bars,
            )
            return found, None
    except AsuLoraError as error:
        return None, type(error)(f"{error} The merged model is in {report.out}, whole and unchecked.")


def _bar():
    from rich import progress

    console = stderr()
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
