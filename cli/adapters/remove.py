"""``asu-lora adapters remove``: for good."""

from pathlib import Path

import click

from asu_lora.cli.options import adapter_names, store_option


@click.command(short_help="Remove adapters for good: the model knows again.")
@click.argument("names", shell_complete=adapter_names, nargs=-1, required=True, metavar="NAME...")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@store_option
def remove(names: tuple[str, ...], yes: bool, store: Path) -> None:
    """Remove adapters for good: what they made the model forget, it knows again.

    All others stay exactly as they are. Those that were trained on top of a removed one were trained for
    a model that is no more: they are named, and should be trained again; the command for it is printed, with FILE
    for the request, whose text an adapter doesn't hold.
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.cli.adapters.tables import retrain_command

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
        click.echo(f"  {retrain_command(other, names, kept.root)}", err=True)
    if not yes:
        click.confirm(f"Remove {', '.join(names)} from {kept.root}?", abort=True, err=True)
    for name in names:
        kept.remove(name)
        click.echo(f"Removed {name}.")
