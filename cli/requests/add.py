"""``asu-lora requests add``: requests come in, each with its rows, an id and a due date."""

import sys

import click

from asu_lora.cli.console import print_json
from asu_lora.cli.help_pages import GroupedCommand
from asu_lora.cli.options import json_option, where_option
from asu_lora.cli.requests.common import acting, actor_option, day, key_option, ledger_options, open_vault
from asu_lora.cli.requests.retain_choice import chosen, retain_choice_options


@click.command(cls=GroupedCommand, short_help="Take requests in: their rows, an id, a due date.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--id",
    "request",
    metavar="TICKET",
    help="What it is called, as its adapter will be; for one FILE alone.  [default: FILE's name]",
)
@click.option(
    "--due", default="30d", show_default=True, metavar="30d|DATE", help="When it must be done: 30d, 6w, 12h, or a date."
)
@click.option("--owner", help="Who looks after it.")
@click.option("--basis", help="The legal basis, such as 'GDPR Art. 17(1)(b)'.")
@click.option("--note", help="Anything else; the ledger keeps it readable, so no personal data.")
@retain_choice_options
@where_option
@ledger_options
@key_option
@actor_option
@json_option
def add(
    *, files, request, due, owner, basis, note, retain, where, store, database, key_file, actor, as_json, **choosing
) -> None:
    """Take the request in each FILE in: rows to forget, as 'asu-lora forget' reads them.

    \b
      asu-lora requests add anna.jsonl --id TICKET-1 --due 30d --basis "GDPR Art. 17(1)(b)"
      asu-lora requests add ben.csv --retain team.csv --due 2026-12-31 --owner privacy@example.org
      asu-lora requests add tickets/*.jsonl --due 30d --retain auto --retain-pool everything.jsonl

    The rows are sealed with the key and stand nowhere else; FILE is not needed any more. A file that is there and
    can't be read is kept as failed, with its due date: mend it, then 'asu-lora requests retry TICKET --file FILE'.

    With --retain auto the rows to keep are chosen now, with the base, and sealed beside the request.

    Of several files each is a request, called by its file's name. One that can't be taken stops no other; exit code 1
    then.
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.requests.intake import Details, Files
    from asu_lora.requests.ledger.database import Database
    from asu_lora.requests.ledger.due_dates import due_moment
    from asu_lora.requests.ledger.ledger import Ledger

    if request is not None and len(files) > 1:
        raise click.UsageError("--id names one request: leave it out, and each is called by its file's name.")
    details = Details(due_moment(due), owner, basis, note)
    retain, chooser = chosen(retain, choosing)
    kept = Database(store, database)
    vault = open_vault(key_file, ledger_is_there=kept.exists())
    kept.prepare()
    ledger = Ledger(kept, acting(actor), vault.seal)
    to_read = [Files(file, retain, dict(where), chooser) for file in files]
    if len(files) == 1:
        _add_one(ledger, vault, to_read[0], details, AdapterStore(store), request, as_json)
    else:
        _add_each(ledger, vault, to_read, details, AdapterStore(store), as_json)


def _add_one(ledger, vault, file, details, store, request, as_json) -> None:
    from asu_lora.data.request import default_name
    from asu_lora.errors import DataError
    from asu_lora.requests.asked_before import AskedBefore, same_rows_note
    from asu_lora.requests.intake import add as take_in

    name = default_name(file.forget) if request is None else request
    heard: list[str] = []
    found = take_in(ledger, vault, name, file, details, store=store, hear=heard.append)
    if found.state == "failed":
        raise DataError(_kept(found, heard[-1]))
    others = AskedBefore(ledger, vault).of(found.id)
    if as_json:
        print_json(as_dict(found) | {"same_rows_in": others})
        return
    click.echo(_queued(found))
    if note := same_rows_note(found.id, others):
        click.echo(note, err=True)
    click.echo("Its rows are sealed: no file is needed any more. 'asu-lora requests run' trains it.", err=True)


def _add_each(ledger, vault, files, details, store, as_json) -> None:
    from asu_lora.requests.asked_before import same_rows_note
    from asu_lora.requests.many_files import add_each

    check_retain(files[0].retain)
    arrived = []
    for each in add_each(ledger, vault, files, details, store=store):
        arrived.append(each)
        if as_json:
            continue
        if each.sentence is None:
            click.echo(_queued(each.request))
            if note := same_rows_note(each.id, list(each.same_rows_in)):
                click.echo(note, err=True)
        else:
            told = _kept(each.request, each.sentence) if each.request else each.sentence
            click.echo(told if each.file in told else f"{each.file}: {told}", err=True)
    failed = sum(each.sentence is not None for each in arrived)
    if as_json:
        print_json([_arrival(each) for each in arrived])
    else:
        click.echo(f"{len(arrived) - failed} added, {failed} not.")
    if failed:
        sys.exit(1)


def check_retain(file: str | None) -> None:
    """Refuse a retain file that can't be read before every one of many requests fails by it."""
    from asu_lora.data.request import read_examples

    if file is not None:
        read_examples(file)


def _queued(request) -> str:
    return f"{request.id}: {request.rows} row{'s' * (request.rows != 1)}, queued, due {day(request.due)} UTC."


def _kept(request, sentence: str | None) -> str:
    return (
        f"{sentence} {request.id} is kept as failed, due {day(request.due)}: mend the file, then 'asu-lora requests "
        f"retry {request.id} --file FILE'."
    )


def _arrival(arrival) -> dict:
    """One of many as ``--json`` shows it; a request that was not taken has a file, an id and a sentence."""
    told = {"id": arrival.id, "state": None} | (as_dict(arrival.request) if arrival.request else {})
    return {"file": arrival.file} | told | {"sentence": arrival.sentence, "same_rows_in": list(arrival.same_rows_in)}


def as_dict(request) -> dict:
    """A request as ``--json`` shows it."""
    from dataclasses import asdict

    return asdict(request) | {"overdue": request.overdue()}
