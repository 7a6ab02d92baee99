"""``asu-lora adapters list``: what is in the store."""

from pathlib import Path

import click

from asu_lora.cli.console import print_json
from asu_lora.cli.options import json_option, store_option


@click.command("list", short_help="List the adapters: base, rows, result.")
@store_option
@json_option
def list_(store: Path, as_json: bool) -> None:
    """List the adapters: what they forget, on which base, with what result.

    "Forget" is the probability of the answers that had to go, before and after. The state is "ready",
    "imported" (a PEFT LoRA made elsewhere, of which nothing else is known) or "broken" and why. No
    weights are read: 'asu-lora adapters verify' does that.
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.cli.adapters.tables import print_list

    found = AdapterStore(store).list()
    if as_json:
        print_json([adapter.as_dict() for adapter in found])
    elif not found:
        click.echo(
            f"The store {store} is empty: 'asu-lora forget' and 'asu-lora adapters import' fill it, and --store or "
            "ASU_LORA_STORE names another."
        )
    else:
        print_list(found)
        for adapter in found:
            if adapter.broken:
                click.echo(f"{adapter.name} is {adapter.state}.")
