"""``asu-lora requests log``: the history, line by line."""

from pathlib import Path

import click

from asu_lora.cli.completion import tickets
from asu_lora.cli.console import print_json, print_table
from asu_lora.cli.options import json_option
from asu_lora.cli.requests.common import day, ledger_options, read_ledger


@click.command()
@click.argument("request", shell_complete=tickets, required=False, metavar="[TICKET]")
@click.option("--last", "-n", type=click.IntRange(1), help="Only the last so many lines.")
@ledger_options
@json_option
def log(request: str | None, last: int | None, store: Path, database: str | None, as_json: bool) -> None:
    """Show the history: who did what when, of TICKET or of all.

    Lines are only ever added, and each holds the hash of the one before. 'asu-lora requests verify' checks them.
    """
    from dataclasses import asdict

    from asu_lora.cli.requests.show import summary

    ledger = read_ledger(store, database)
    lines = ledger.history(request, last=last)
    if as_json:
        print_json([asdict(line) for line in lines])
        return
    rows = [
        (line.number, day(line.at), line.actor, line.request or "", line.event, summary(line), line.hash[:12])
        for line in lines
    ]
    print_table(None, ("line", "time (UTC)", "actor", "request", "event", "", "hash"), rows, right=(0,), wrap=(5,))
    click.echo(f"Head: {ledger.head()}")
