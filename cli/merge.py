"""``asu-lora merge``: adapters baked into the base's weights."""

from pathlib import Path

import click

from asu_lora.cli.console import print_json, print_table, stderr
from asu_lora.cli.options import adapter_option, base_option, json_option, store_option

LOST_TOO_MUCH = 0.1  # of the update: said aloud, because forgotten facts may return


@click.command()
@base_option
@adapter_option
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False, path_type=Path),
              help="The folder to write; it must not hold anything yet.")
@click.option("-p", "--precision", type=click.Choice(["bf16", "fp16", "fp32", "nf4"]), default="bf16",
              show_default=True, help="What the merged weights are stored in.")
@click.option("--onto", type=click.Choice(["quantized", "original"]),
              help="Add to the weights as NF4 shows them, or to the original ones.  [default: what the "
                   "adapters were trained on]")
@click.option("--shard-size", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True,
              metavar="GB", help="The largest file.")
@click.option("--trust-remote-code", is_flag=True, help="Run the model code that comes with the base.")
@store_option
@json_option
def merge(base: str, adapters: tuple[str, ...], out: Path, precision: str, onto: str | None,
          shard_size: float, trust_remote_code: bool, store: Path, as_json: bool) -> None:
    """Write the base with adapters baked in: weights to publish, which plain transformers loads.

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
    """
    from asu_lora.cli.quiet import quiet_libraries

    quiet_libraries()
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.bases import resolve_base
    from asu_lora.merging.merge import merge as write_merged
    from asu_lora.stack import parse_adapter

    store = AdapterStore(store)
    chosen = [(store.resolve(name), weight) for name, weight in map(parse_adapter, adapters)]
    source = resolve_base(base)
    with _bar() as progress:
        task = progress.add_task(f"Merging into {precision}", total=None)
        report = write_merged(source, chosen, out, precision, onto, int(shard_size * 1e9),
                              lambda done, total: progress.update(task, completed=done, total=total),
                              trust_remote_code)
    if as_json:
        print_json(report.as_dict())
        return
    worst = report.worst(5)
    print_table("Most lost to rounding", ("Module", "update (norm)", "lost", "noise"),
                [(m.module, f"{m.update_norm:.4g}", f"{m.lost:.2%}", f"{m.error:.3g}") for m in worst],
                right=(1, 2, 3), wrap=(0,))
    for line in _summary(report):
        click.echo(line)


def _bar():
    from rich import progress

    console = stderr()
    return progress.Progress(
        progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn(),
        progress.TransferSpeedColumn(), progress.TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal)


def _summary(report) -> list[str]:
    names = " + ".join(name if weight == 1 else f"{name}:{weight:g}" for name, weight in report.adapters)
    total = report.overall
    files = f"{report.shards} file{'s' * (report.shards > 1)}"
    lines = [f"{report.base} + {names} -> {report.out}: {report.precision}, {report.bytes / 1e9:.2f} GB in "
             f"{files}, {report.seconds:.1f} s."]
    if report.onto == "quantized":
        lines.append("Merged onto the weights as NF4 shows them" + (
            f", which differ from the original ones by {report.onto_difference:.1%}."
            if report.onto_difference else "."))
    elif report.onto_difference:
        lines.append(f"Merged onto the original weights, which differ by {report.onto_difference:.1%} from "
                     "the NF4 ones that an adapter was trained on.")
    lines.append(f"Lost to rounding: {total.lost:.2%} of the update over {len(report.modules)} modules, "
                 f"with a noise of {total.error:.3g} times the update.")
    if total.lost > LOST_TOO_MUCH or total.error > 1:
        lines.append("Warning: rounding undoes a good part of what the adapters do, and what was forgotten "
                     "may return. Merge to bf16, or serve the adapters beside the 4-bit base.")
    lines.append(f'Next: asu-lora ask "..." --base {report.out}   (in Python: '
                 f'AutoModelForCausalLM.from_pretrained("{report.out}"))')
    return lines
