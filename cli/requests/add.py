"""``asu-lora requests add``: a request comes in."""

import click

from asu_lora.cli.console import print_json
from asu_lora.cli.options import json_option, retain_option, where_option
from asu_lora.cli.requests.common import acting, actor_option, day, key_option, ledger_options, open_vault


@click.command(short_help="Take a request in: its rows, an id, a due date.")
@click.argument("file")
@click.option(
    "--id", "request", metavar="TICKET", help="What it is called, as its adapter will be.  [default: FILE's name]"
)
@click.option(
    "--due", default="30d", show_default=True, metavar="30d|DATE", help="When it must be done: 30d, 6w, 12h, or a date."
)
@click.option("--owner", help="Who looks after it.")
@click.option("--basis", help="The legal basis, such as 'GDPR Art. 17(1)(b)'.")
@click.option("--note", help="Anything else; the ledger keeps it readable, so no personal data.")
@retain_option()
@where_option
@ledger_options
@key_option
@actor_option
@json_option
def add(*, file, request, due, owner, basis, note, retain, where, store, database, key_file, actor, as_json) -> None:
    """Take the request in FILE in: rows to forget, as 'asu-lora forget' reads them.

    \b
      asu-lora requests add anna.jsonl --id TICKET-1 --due 30d --basis "GDPR Art. 17(1)(b)"
      asu-lora requests add ben.csv --retain team.csv --due 2026-12-31 --owner privacy@example.org

    The rows are sealed with the key and stand nowhere else; FILE is not needed any more. A file that is there and
    can't be read is kept as failed, with its due date: mend it, then 'asu-lora requests retry TICKET --file FILE'.
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.data.request import default_name
    from asu_lora.errors import DataError
    from asu_lora.requests.intake import Details, Files
    from asu_lora.requests.intake import add as take_in
    from asu_lora.requests.ledger.database import Database
    from asu_lora.requests.ledger.due_dates import due_moment
    from asu_lora.requests.ledger.ledger import Ledger

    details = Details(due_moment(due), owner, basis, note)
    kept = Database(store, database)
    vault = open_vault(key_file, ledger_is_there=kept.exists())
    kept.prepare()
    ledger = Ledger(kept, acting(actor), vault.seal)
    name = request or default_name(file)
    found = take_in(ledger, vault, name, Files(file, retain, dict(where)), details, store=AdapterStore(store))
    if found.state == "failed":
        raise DataError(
            f"{found.sentence} {name} is kept as failed, due {day(found.due)}: mend the file, then 'asu-lora requests "
            f"retry {name} --file FILE'."
        )
    if as_json:
        print_json(as_dict(found))
        return
    click.echo(f"{found.id}: {found.rows} row{'s' * (found.rows != 1)}, queued, due {day(found.due)} UTC.")


def as_dict(request) -> dict:
    """A request as ``--json`` shows it."""
    from dataclasses import asdict

    return asdict(request) | {"overdue": request.overdue()}
