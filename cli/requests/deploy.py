"""``asu-lora requests deploy``: what is served from now on."""

from pathlib import Path

import click

from asu_lora.cli.completion import tickets
from asu_lora.cli.console import print_json
from asu_lora.cli.options import adapter_names, json_option
from asu_lora.cli.requests.common import actor_option, ledger_options, read_ledger


@click.command(short_help="Write down that each ARTEFACT is served, with its hash.")
@click.argument("artefacts", nargs=-1, required=True, metavar="ARTEFACT...", shell_complete=adapter_names)
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
def deploy(*, artefacts, requests, all_trained: bool, where, store: Path, database: str | None, actor, as_json) -> None:
    """Write down that each ARTEFACT is served, with its hash: their requests are deployed.

    ARTEFACT is an adapter of the store (a combined one tells by itself which requests are in it), or the folder or
    file of a merged model, for which the requests are named:

    \b
      asu-lora requests deploy all-of-may
      asu-lora requests deploy merged/ --request TICKET-1 --request TICKET-2

    What is served together is one set: name all of it. A set that holds a request twice, or one that was withdrawn, is
    refused.

    \b
      asu-lora requests deploy combined-001 combined-002 TICKET-21

    Nothing is served by this: it records what you serve, in place of what was served before.
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.requests.deployment import deploy as record
    from asu_lora.requests.deployment import look_at

    ledger = read_ledger(store, database, actor)
    held = [*requests, *(r.id for r in ledger.standing() if all_trained)]
    for request in requests:
        ledger.get(request)
    found = record(ledger, look_at(ledger, AdapterStore(store), artefacts, held), where)
    if as_json:
        print_json(as_dict(found))
    else:
        tell(found)


def as_dict(found) -> dict:
    """What ``--json`` prints; a single artefact stands there by itself, too."""
    from dataclasses import asdict

    told = asdict(found)
    return ({"artefact": told["artefacts"][0]} if len(found.artefacts) == 1 else {}) | told


def tell(found) -> None:
    """What is served, and what was served before and is not any more."""
    made, count = found.artefacts, f"{len(found.requests)} request{'s' * (len(found.requests) != 1)}"
    if len(made) == 1:
        click.echo(f"{made[0].name} is served, with {count}: {', '.join(found.requests)}.\nSHA-256: {made[0].hash}")
    else:
        names = f"{', '.join(each.name for each in made[:-1])} and {made[-1].name}"
        click.echo(f"{names} are served together, with {count}: {', '.join(found.requests)}.")
        for each in made:
            click.echo(f"SHA-256 of {each.name}: {each.hash}")
    for request, sentence in found.over.items():
        click.echo(f"The last audit of {request} is not passed: {sentence}", err=True)
    if found.missing:
        this = "this doesn't" if len(made) == 1 else "this set doesn't"
        click.echo(f"What was served before held these too, and {this}: {', '.join(found.missing)}.", err=True)
