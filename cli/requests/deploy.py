"""``asu-lora requests deploy``: what is served from now on."""

from pathlib import Path

import click

from asu_lora.cli.completion import tickets
from asu_lora.cli.console import print_json
from asu_lora.cli.options import adapter_names, json_option
from asu_lora.cli.requests.common import actor_option, ledger_options, read_ledger


@click.command()
@click.argument("artefact", shell_complete=adapter_names)
@click.option(
    "--request",
    "-r",
    "requests",
    multiple=True,
    metavar="TICKET",
    shell_complete=tickets,
    help="A request that is in it; repeat it.",
)
@click.option("--all-trained", is_flag=True, help="Every trained or audited request is in it.")
@click.option("--where", "where", metavar="NAME", help="Where it is served, as you call the place.")
@ledger_options
@actor_option
@json_option
def deploy(
    *, artefact: str, requests, all_trained: bool, where, store: Path, database: str | None, actor, as_json
) -> None:
    """Write down that ARTEFACT is served, with its hash: its requests are deployed.

    ARTEFACT is an adapter of the store (a combined one tells by itself which requests are in it), or the folder or
    file of a merged model, for which the requests are named:

    \b
      asu-lora requests deploy all-of-may
      asu-lora requests deploy merged/ --request TICKET-1 --request TICKET-2

    Nothing is served by this: it records what you serve.
    """
    from dataclasses import asdict

    from asu_lora.adapters.store import AdapterStore
    from asu_lora.requests.deployment import deploy as record
    from asu_lora.requests.deployment import look_at

    ledger = read_ledger(store, database, actor)
    held = [*requests, *(r.id for r in ledger.requests(["trained", "audited", "deployed"]) if all_trained)]
    for request in requests:
        ledger.get(request)
    found = record(ledger, look_at(ledger, AdapterStore(store), artefact, held), where)
    if as_json:
        print_json(asdict(found))
        return
    made = found.artefact
    count = f"{len(made.requests)} request{'s' * (len(made.requests) != 1)}"
    click.echo(f"{made.name} is served, with {count}: {', '.join(made.requests)}.\nSHA-256: {made.hash}")
    if found.missing:
        click.echo(f"What was served before held these too, and this doesn't: {', '.join(found.missing)}.", err=True)
