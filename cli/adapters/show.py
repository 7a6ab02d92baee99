"""``asu-lora adapters show``: everything that is known about one."""

from pathlib import Path

import click

from asu_lora.cli.console import print_json, print_table
from asu_lora.cli.options import adapter_names, json_option, store_option


@click.command()
@click.argument("name", shell_complete=adapter_names)
@store_option
@json_option
def show(name: str, store: Path, as_json: bool) -> None:
    """Show everything that is known about the adapter NAME.

    How it was made, on which base, from how many rows (never which: an adapter holds no text of its request),
    its figures before and after, and which adapters it stands on or which stand on it.
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.cli.adapters.tables import facts, figures, tau_curve

    kept = AdapterStore(store)
    adapter = kept.get(name)
    above = [other.name for other in kept.dependents(name)]
    if as_json:
        print_json({**adapter.as_dict(), "trained_on_top_of_it": above})
        return
    print_table(None, (name, adapter.state), facts(adapter, kept.missing_beneath(name), above), wrap=(1,))
    if rows := figures(adapter):
        print_table("Figures", ("", "before", "after"), rows, right=(1, 2), wrap=(0,))
    columns, curve = tau_curve(adapter)
    if curve:
        every = range(len(columns))
        print_table("tau curve", columns, curve, right=every, wrap=every)
