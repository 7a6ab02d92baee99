"""``asu-lora adapters rename``: another name."""

from pathlib import Path

import click

from asu_lora.cli.options import adapter_names, store_option


@click.command()
@click.argument("old", shell_complete=adapter_names)
@click.argument("new")
@store_option
def rename(old: str, new: str, store: Path) -> None:
    """Call the adapter OLD by the name NEW.

    Its manifest and model card follow, and so do the manifests of adapters trained on top of it.
    """
    from asu_lora.adapters.store import AdapterStore

    AdapterStore(store).rename(old, new)
    click.echo(f"{old} is now {new}.")
