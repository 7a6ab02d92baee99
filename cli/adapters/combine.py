"""``asu-lora adapters combine``: several adapters as one."""

from pathlib import Path

import click

from asu_lora.cli.adapters.check import warn_of_interference
from asu_lora.cli.console import print_json, print_table
from asu_lora.cli.options import adapter_names, json_option, store_option


@click.command()
@click.argument("adapters", shell_complete=adapter_names, nargs=-1, required=True, metavar="NAME[:WEIGHT]...")
@click.option("-n", "--name", required=True, help="What the new adapter is called in the store.")
@click.option(
    "-r",
    "--rank",
    type=click.IntRange(min=1),
    help="Truncate to this rank by SVD and print what that costs.  [default: exact]",
)
@store_option
@json_option
def combine(adapters: tuple[str, ...], name: str, rank: int | None, store: Path, as_json: bool) -> None:
    """Add adapters of one base up into a single new one, a plain PEFT LoRA like any other.

    A server that takes one LoRA a request then serves the whole stack. The sources stay as they are. A weight
    after a colon scales an adapter, and a negative one subtracts it:

    \b
      asu-lora adapters combine anna ben:0.5 --name both

    The sum is exact: its rank is the sum of the ranks. With --rank it is cut to the best approximation of
    that rank, and the error of every module's update is printed:

    \b
      asu-lora adapters combine anna ben carl --name all --rank 16

    Adapters of different bases, or of other weights under the same name, are refused.
    """
    from asu_lora.cli.quiet import quiet_libraries

    quiet_libraries()
    from asu_lora.adapters.combine import combine as add_up
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.models.adapter_stack import parse_adapter

    kept = AdapterStore(store)
    names, weights = zip(*map(parse_adapter, adapters), strict=True)
    folders = [kept.resolve(adapter) for adapter in names]
    with kept.stage(name) as folder:
        report = add_up(folders, weights, folder, rank, name)
    warn_of_interference(folders, weights)
    where = kept.resolve(name)
    if as_json:
        print_json(report.as_dict() | {"path": str(where), "name": name})
        return
    if rank is not None:
        rows = [
            (module.module, module.rank, module.kept_rank, f"{module.relative_error:.4f}") for module in report.modules
        ]
        print_table(None, ("Module", "rank", "kept", "relative error"), rows, right=(1, 2, 3), wrap=(0,))
    count = f"{len(adapters)} adapter{'s' * (len(adapters) > 1)}"
    error = report.relative_error
    exact = f"with a relative error of {error:.4f}" if error else "exactly"
    click.echo(f"{name}: {count} as one, {exact}, rank {report.rank}, in {where}.")
    click.echo(f'Next: asu-lora ask "..." --base BASE --adapter {name}')
