"""``asu-lora adapters combine``: several adapters as one."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asu_lora.cli.adapters.check import warn_of_weights
from asu_lora.cli.console import print_json, print_table
from asu_lora.cli.options import adapter_names, json_option, store_option

if TYPE_CHECKING:
    from asu_lora.adapters.combine_report import CombineReport
    from asu_lora.adapters.store import AdapterStore


@click.command(short_help="Add adapters of one base up into a single new one.")
@click.argument("adapters", shell_complete=adapter_names, nargs=-1, required=True, metavar="NAME[:WEIGHT]...")
@click.option("-n", "--name", required=True, help="What the new adapter is called in the store.")
@click.option(
    "-r",
    "--rank",
    type=click.IntRange(min=1),
    help="Truncate to this rank by SVD and print what that costs.  [default: exact]",
)
@click.option(
    "--fit/--no-fit",
    default=None,
    help="Choose the weights, so that the sum forgets each request as its adapter alone does, and keeps more. Needs "
    "the curves of forgetting that --adds-up leaves in manifests.  [default: where all have one]",
)
@click.option(
    "--interference",
    type=click.FloatRange(0),
    help="For --fit: nats that an adapter takes from another one's forgotten answers; 'adapters check --forget' "
    "measures it.  [default: read off what their updates share]",
)
@store_option
@json_option
def combine(
    *,
    adapters: tuple[str, ...],
    name: str,
    rank: int | None,
    fit: bool | None,
    interference: float | None,
    store: Path,
    as_json: bool,
) -> None:
    """Add adapters of one base up into a single new one, a plain PEFT LoRA like any other.

    A server that takes one LoRA a request then serves the whole stack. The sources stay as they are. A weight
    after a colon scales an adapter, and a negative one subtracts it:

    \b
      asu-lora adapters combine anna ben:0.5 --name both

    The sum is exact: its rank is the sum of the ranks. With --rank it is cut to the best approximation of
    that rank, and the error of every module's update is printed:

    \b
      asu-lora adapters combine anna ben carl --name all --rank 16

    Beside others an adapter forgets more than alone. Adapters that were trained to add up (--adds-up) get weights at
    which they don't, unless you give one (anna:1) or --no-fit. With --rank these are a little higher, to make
    up for what is cut off.

    Adapters of different bases, or of other weights under the same name, are refused.
    """
    from asu_lora.cli.quiet import quiet_libraries

    quiet_libraries()
    from asu_lora.adapters.combine import combine as add_up
    from asu_lora.adapters.fitted_weights import told
    from asu_lora.adapters.store import AdapterStore

    kept = AdapterStore(store)
    chosen = weights_for(adapters, kept, fit, interference)
    folders, weights = [kept.resolve(adapter) for adapter, _ in chosen], [weight for _, weight in chosen]
    fitted = told(adapters, list(zip(folders, weights, strict=True))) if fit is not False else []
    as_strong = bool(fitted) and any(weight != 1 for weight in weights)  # weights of one's own are taken as they are
    with kept.stage(name) as folder:
        report = add_up(folders, weights, folder, rank, name, keep_length=as_strong)
    warn_of_weights(folders, weights)
    where = kept.resolve(name)
    if as_json:
        print_json(report.as_dict() | {"path": str(where), "name": name})
        return
    for note in fitted:
        click.echo(note)
    show(report, name, where, rank is not None)


def weights_for(
    adapters: tuple[str, ...], store: "AdapterStore", fit: bool | None, interference: float | None
) -> list[tuple[str | Path, float]]:
    """The adapters with their weights: typed, fitted or 1."""
    from asu_lora.adapters.adapter_spec import typed_adapter
    from asu_lora.adapters.fitted_weights import fitted_weights, weighed

    if interference is not None and not fit:
        raise click.UsageError("--interference is for --fit: give both, or weights of your own (NAME:0.9).")
    if fit is None:
        return weighed(adapters, store)
    names, typed = zip(*map(typed_adapter, adapters), strict=True)
    if not fit:
        return [(name, 1.0 if weight is None else weight) for name, weight in zip(names, typed, strict=True)]
    if any(weight is not None for weight in typed):
        raise click.UsageError("--fit chooses the weights: give names alone, or leave --fit out.")
    folders = [store.resolve(name) for name in names]
    return list(zip(names, fitted_weights(folders, interference), strict=True))


def show(report: "CombineReport", name: str, where: Path, by_module: bool) -> None:
    """What it cost, module by module where it was cut, and what to type next."""
    if by_module:
        rows = [
            (module.module, module.rank, module.kept_rank, f"{module.relative_error:.4f}") for module in report.modules
        ]
        print_table(None, ("Module", "rank", "kept", "relative error"), rows, right=(1, 2, 3), wrap=(0,))
    count = f"{len(report.sources)} adapter{'s' * (len(report.sources) > 1)}"
    error = report.relative_error
    exact = f"with a relative error of {error:.4f}" if error else "exactly"
    click.echo(f"{name}: {count} as one, {exact}, rank {report.rank}, in {where}.")
    click.echo(f'Next: asu-lora ask "..." --base BASE --adapter {name}')
