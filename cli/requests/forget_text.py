"""``asu-lora requests forget-text``: texts that have served are destroyed."""

from pathlib import Path

import click

from asu_lora.cli.completion import tickets
from asu_lora.cli.requests.common import actor_option, ledger_options, read_ledger


@click.command("forget-text", short_help="Destroy the texts of requests whose adapters are audited.")
@click.argument("requests", shell_complete=tickets, nargs=-1, metavar="[TICKET]...")
@click.option("--all-audited", is_flag=True, help="Every request whose adapter has passed its last audit.")
@click.option("--unaudited", is_flag=True, help="Even where the adapter is not audited.")
@ledger_options
@actor_option
def forget_text(requests, all_audited: bool, unaudited: bool, store: Path, database: str | None, actor) -> None:
    """Destroy the texts of requests whose adapters are audited; commitments of their rows are left.

    Afterwards a request can't be trained again, nor asked again by a later audit. Whether a file is the one that was
    handed in can still be told: 'asu-lora requests show TICKET --is-text FILE'.
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.requests.forget_text import LOST
    from asu_lora.requests.forget_text import forget_text as destroy

    if bool(requests) == all_audited:
        raise click.UsageError("Name the requests, or say --all-audited.")
    ledger, kept = read_ledger(store, database, actor), AdapterStore(store)
    sealed = [r for r in ledger.requests() if r.audits and r.text == "sealed"] if all_audited else []
    names = [r.id for r in sealed if not r.sentence or r.state == "withdrawn"] if all_audited else requests
    for request in sealed:
        if request.id not in names:
            click.echo(f"{request.id} keeps its text, unless you name it: {request.sentence}", err=True)
    gone, done = 0, False
    try:
        for name in names:
            if destroy(ledger, kept, name, unaudited):
                gone += 1
                click.echo(f"The text of {name} is destroyed.")
        done = True
    finally:  # what is lost is said, also where the next one is refused
        if gone:
            click.echo(f"Of {gone} request{'s' * (gone != 1)}: {LOST}.")
        elif done:
            click.echo("No text was left to destroy.")
