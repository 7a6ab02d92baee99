"""``asu-lora adapters pull``: from the hub into the store."""

from pathlib import Path

import click

from asu_lora.cli.options import name_option, store_option


@click.command()
@click.argument("source", metavar="USER/REPO|FOLDER")
@name_option
@click.option("--revision", help="A branch, tag or commit of the repository.")
@store_option
def pull(source: str, name: str | None, revision: str | None, store: Path) -> None:
    """Fetch an adapter from the hub, or from a folder, into the store.

    Only an adapter's own files are fetched, never pickles, and it is verified before it is added. USER/REPO may be
    the repository's address, as the browser shows it.
    """
    from asu_lora.adapters.push_pull import pull as pull_adapter
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.cli.adapters.tables import print_taken_in

    kept = AdapterStore(store)
    print_taken_in(kept, pull_adapter(kept, source, name, revision))
