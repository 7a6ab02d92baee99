"""``asu-lora adapters export``: out of the store, as a folder or one file."""

from pathlib import Path

import click

from asu_lora.cli.options import store_option


@click.command()
@click.argument("name")
@click.argument("destination", type=click.Path(path_type=Path))
@store_option
def export(name: str, destination: Path, store: Path) -> None:
    """Write the adapter NAME to DESTINATION: one file if it ends in .tar.gz or .zip, else a folder.

    Nothing is overwritten. The folder is plain PEFT: PeftModel.from_pretrained, vLLM and others load it.

    \b
      asu-lora adapters export request request.tar.gz
    """
    from asu_lora.adapters.store import AdapterStore

    click.echo(f"{name} is in {AdapterStore(store).export(name, destination)}.")
