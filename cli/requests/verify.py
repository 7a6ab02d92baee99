"""``asu-lora requests verify``: is the ledger what was written?"""

import sys
from pathlib import Path

import click

from asu_lora.cli.console import print_json
from asu_lora.cli.options import json_option
from asu_lora.cli.requests.common import ledger_options, read_ledger


@click.command(short_help="Check that no line of the history was changed or moved.")
@click.option(
    "--expect", metavar="HEAD", help="A head noted earlier: it must still be in the history. Tells a restored old copy."
)
@click.option(
    "--heads",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file elsewhere: every head in it must still be in the history, and this one is added.",
)
@ledger_options
@json_option
def verify(expect: str | None, heads: Path | None, store: Path, database: str | None, as_json: bool) -> None:
    """Check that no line of the history was changed, dropped or moved; exit code 1 if one was.

    Each line holds the hash of the one before, and the head of the history is recorded beside it, signed wherever the
    key is at hand. Who can write to the database can still put back a whole earlier copy of it. So note the head that
    is printed here where they can't change it, and give it back later; --heads does both with a file:

    \b
      asu-lora requests verify --expect 128:9f2c...
      asu-lora requests verify --heads /mnt/append-only/heads.txt
    """
    from asu_lora.requests.ledger.history import Head
    from asu_lora.requests.ledger.noted_heads import note_head, read_heads

    wanted = [Head.parse(expect)] if expect else []
    wanted += read_heads(heads) if heads else []
    found = read_ledger(store, database).verify(*wanted)
    if found.whole and heads:
        note_head(heads, found.head)
    if as_json:
        print_json(
            {
                "whole": found.whole,
                "lines": found.head.lines,
                "head": str(found.head),
                "sealed": found.sealed,
                "findings": found.findings,
            }
        )
    elif found.whole:
        signed = (
            f", signed up to line {found.sealed}" if found.sealed else ", its signature not checked (no key at hand)"
        )
        click.echo(f"The history is whole: {found.head.lines} lines{signed}.\nHead: {found.head}")
        if heads and wanted:
            click.echo(f"It holds all that was noted: {len(wanted)} head{'s' * (len(wanted) != 1)}.")
    else:
        for finding in found.findings:
            click.echo(finding)
    if not found.whole:
        sys.exit(1)
