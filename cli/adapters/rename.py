"""``asu-lora adapters rename``: another name."""

from pathlib import Path

import click

from asu_lora.cli.console import print_json
from asu_lora.cli.options import adapter_names, json_option
from asu_lora.cli.requests.common import ledger_options


@click.command()
@click.argument("old", shell_complete=adapter_names)
@click.argument("new")
@ledger_options
@json_option
def rename(old: str, new: str, store: Path, database: str | None, as_json: bool) -> None:
    """Call the adapter OLD by the name NEW.

    Its manifest and model card follow, and so do the manifests of adapters trained on top of it. One that a request of
    the queue has keeps its name, which is the request's.
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.cli.adapters.of_requests import of_requests
    from asu_lora.errors import StoreError
    from asu_lora.requests.own_adapter import is_own

    kept = AdapterStore(store)
    for ledger, request in of_requests(kept, database, [old]):
        if is_own(ledger, kept, request):
            raise StoreError(
                f"{old} is the adapter of the request {request.id}, which the ledger finds by this name: leave it, and "
                f"hand on a copy ('asu-lora adapters export {old}') where another name is needed."
            )
    kept.rename(old, new)
    if as_json:
        print_json({"name": new, "was": old, "path": str(kept.root / new)})
    else:
        click.echo(f"{old} is now {new}.")
