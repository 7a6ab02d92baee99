"""``asu-lora adapters remove``: for good."""

from pathlib import Path

import click

from asu_lora.cli.console import ask_first, print_json
from asu_lora.cli.options import adapter_names, json_option
from asu_lora.cli.requests.common import ledger_options


@click.command(short_help="Remove adapters for good: the model knows again.")
@click.argument("names", shell_complete=adapter_names, nargs=-1, required=True, metavar="NAME...")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@ledger_options
@json_option
def remove(names: tuple[str, ...], yes: bool, store: Path, database: str | None, as_json: bool) -> None:
    """Remove adapters for good: what they made the model forget, it knows again.

    All others stay exactly as they are. Those that were trained on top of a removed one were trained for
    a model that is no more: they are named, and should be trained again; the command for it is printed, with FILE
    for the request and RETAIN (or POOL) for what was kept, whose text an adapter doesn't hold. One that a request of
    the queue has is taken back with 'asu-lora requests withdraw' instead.
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.cli.adapters.again import retrain_command
    from asu_lora.cli.adapters.of_requests import of_requests

    kept = AdapterStore(store)
    names = tuple(dict.fromkeys(names))
    dependents = {name: [other for other in kept.dependents(name) if other.name not in names] for name in names}
    for name, others in dependents.items():
        if others:
            click.echo(
                f"Warning: trained on top of {name}: {', '.join(other.name for other in others)}. Train "
                f"{'it' if len(others) == 1 else 'them'} again afterwards, without --on-top-of {name}.",
                err=True,
            )
    for other in {other.name: other for others in dependents.values() for other in others}.values():
        if command := retrain_command(other, names, kept.root):
            click.echo(f"  {command}", err=True)
    for _, request in of_requests(kept, database, names):
        click.echo(
            f"Warning: {request.adapter} is the adapter of the request {request.id}, which stays {request.state}: "
            f"'asu-lora requests withdraw {request.id}' takes it back, and writes that down.",
            err=True,
        )
    if not yes:
        ask_first(f"Remove {', '.join(names)} from {kept.root}?")
    for name in names:
        kept.remove(name)
        if not as_json:
            click.echo(f"Removed {name}.")
    if as_json:
        print_json([{"name": name, "dependents": [other.name for other in dependents[name]]} for name in dependents])
