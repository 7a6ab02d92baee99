"""``asu-lora requests show``: one request and its history."""

import sys
from pathlib import Path

import click

from asu_lora.cli.completion import tickets
from asu_lora.cli.console import print_json, print_table
from asu_lora.cli.options import json_option, where_option
from asu_lora.cli.requests.common import day, key_option, ledger_options, open_vault, read_ledger, say_if_foreign

NO = 3  # exit code where the answer is no


@click.command()
@click.argument("request", shell_complete=tickets, metavar="TICKET")
@click.option("--is-text", metavar="FILE", help="Tell whether FILE is what was handed in, even after its text is gone.")
@click.option("--retain", metavar="FILE", help="With --is-text: the retain file that was handed in beside it.")
@where_option
@ledger_options
@key_option
@json_option
def show(*, request: str, is_text, retain, where, store: Path, database: str | None, key_file, as_json: bool) -> None:
    """Show where TICKET stands, and every step it took.

    The text is never shown. With --is-text FILE the commitments of the rows to forget are compared with FILE; those to
    keep with --retain FILE, where it is given. Exit code 3 says that they are not what was handed in.
    """
    from dataclasses import asdict

    from asu_lora.cli.requests.add import as_dict
    from asu_lora.requests.deployment import served_in

    ledger = read_ledger(store, database)
    found, lines, place = ledger.get(request), ledger.history(request), served_in(ledger, request)
    say_if_foreign(ledger, store)
    same = _same(ledger, key_file, request, (is_text, retain, dict(where))) if is_text else None
    if as_json:
        told = as_dict(found) | {"served": place and asdict(place), "history": [asdict(line) for line in lines]}
        print_json(told if same is None else told | {"is_text": same})
    else:
        _tell(found, lines, place)
        if same is not None:
            compared = f"{is_text} with {retain}" if retain else is_text
            click.echo(f"{compared} {'is' if same else 'is not'} what was handed in.")
    if same is False:
        sys.exit(NO)


def _tell(found, lines, place) -> None:
    """The request and its history, as tables."""
    facts = {
        "state": found.state + (f": {found.sentence}" if found.sentence else ""),
        "received": f"{day(found.received)} UTC",
        "due": f"{day(found.due)} UTC" + (", OVERDUE" if found.overdue() else ""),
        "owner": found.owner,
        "basis": found.basis,
        "note": found.note,
        "rows": found.rows,
        "text": {"sealed": "sealed in the ledger", "none": "none: its file could not be read"}.get(
            found.text, "destroyed; its commitments are left"
        ),
        "adapter": found.adapter,
        "trainings begun": found.attempts,
        "audits": found.audits,
        "certificate": certificate(lines),
        "served": served(place, found.state),
    }
    print_table(
        None, ("Request", found.id), [(key, value) for key, value in facts.items() if value is not None], wrap=(1,)
    )
    rows = [(line.number, day(line.at), line.actor, line.event, summary(line)) for line in lines]
    print_table("History", ("line", "time (UTC)", "actor", "event", ""), rows, right=(0,), wrap=(4,))


def certificate(lines) -> str | None:
    """Where a request's certificate stands, for a table; None where none was issued."""
    told = None
    for line in lines:
        if number := line.payload.get("certificate"):
            told = f"no. {number}"
        elif number := line.payload.get("ended"):
            told = f"none: no. {number} holds no longer, as a later audit is not passed"
    return told


def served(place, state: str) -> str | None:
    """Where a request is served, for a table; None for one that never was."""
    if place is None:
        return "no more: what was deployed last doesn't hold it" if state == "deployed" else None
    beside = f", together with {', '.join(place.beside)}" if place.beside else ""
    return f"in {place.artefact.name}{beside}, since {day(place.since)} UTC" + (
        f", at {place.where}" * bool(place.where)
    )


def summary(line) -> str:
    """The payload of a line, for a table."""
    parts = []
    for key, value in line.payload.items():
        if value is None or isinstance(value, dict) or key == "artefacts":
            continue  # of a set: its names and its requests stand beside it
        told = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        parts.append(f"{key} {told[:12] if key in ('hash', 'commitment', 'fingerprint') else told}")
    return "; ".join(parts)


def _same(ledger, key_file, request, files) -> bool:
    from asu_lora.requests.text_vault import RequestText

    vault = open_vault(key_file)
    text, retain = RequestText.from_files(*files), files[1]
    told = [line.payload for line in ledger.history(request, ["queued"]) if "commitment" in line.payload]
    with ledger.database.reading() as connection:
        return vault.is_text_of(connection, request, text, told[-1]["rows"] if told and not retain else None)
