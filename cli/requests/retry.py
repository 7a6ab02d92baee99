"""``asu-lora requests retry``: a request that failed is queued again."""

from pathlib import Path

import click

from asu_lora.cli.completion import tickets
from asu_lora.cli.help_pages import GroupedCommand
from asu_lora.cli.options import where_option
from asu_lora.cli.requests.common import acting, actor_option, day, key_option, ledger_options, open_vault
from asu_lora.cli.requests.retain_choice import chosen, retain_choice_options


@click.command(cls=GroupedCommand, short_help="Queue TICKET again after it failed.")
@click.argument("request", shell_complete=tickets, metavar="TICKET")
@click.option(
    "--file", "file", metavar="FILE", help="Its rows anew, where the first file was broken or its text is gone."
)
@retain_choice_options
@where_option
@ledger_options
@key_option
@actor_option
def retry(*, request: str, file, retain, where, store: Path, database: str | None, key_file, actor, **choosing) -> None:
    """Queue TICKET again after it failed, with its sealed text or with the rows of a new file.

    Its id, its due date and its history stay.
    """
    from asu_lora.requests.intake import Files, hand_in_again
    from asu_lora.requests.ledger.ledger import open_ledger

    if (retain or where) and not file:
        raise click.UsageError("--retain and --where go with --file.")
    retain, chooser = chosen(retain, choosing)
    vault = open_vault(key_file)
    ledger = open_ledger(store, database, actor=acting(actor), seal=vault.seal)
    found = hand_in_again(ledger, vault, request, Files(file, retain, dict(where), chooser) if file else None)
    click.echo(f"{found.id}: queued again, {found.rows} row{'s' * (found.rows != 1)}, due {day(found.due)} UTC.")
