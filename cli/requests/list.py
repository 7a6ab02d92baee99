"""``asu-lora requests list``: where each request stands."""

from pathlib import Path

import click

from asu_lora.cli.console import print_json, print_table
from asu_lora.cli.options import json_option
from asu_lora.cli.requests.common import day, ledger_options, read_ledger, say_if_foreign


@click.command("list", short_help="List the requests, overdue ones first.")
@click.option(
    "--state",
    "states",
    multiple=True,
    help="Only requests in this state, or 'open', or 'overdue'; repeat it for several.",
)
@click.option("--overdue", is_flag=True, help="Only requests whose due date has passed.")
@ledger_options
@json_option
def list_(states: tuple[str, ...], overdue: bool, store: Path, database: str | None, as_json: bool) -> None:
    """List the requests: overdue ones first, then open ones by their due date, then those that are done.

    A request is received, queued, training, trained, audited, deployed, withdrawn or failed. It is open
    until it is deployed or withdrawn, and overdue if its date passes before:

    \b
      asu-lora requests list --state open
      asu-lora requests list --state failed --state overdue
    """
    from asu_lora.cli.requests.add import as_dict
    from asu_lora.requests.ledger.claims import at_work
    from asu_lora.requests.ledger.database import Database
    from asu_lora.requests.ledger.states import AUDIT_FAILED, LISTED_BY, STATES

    for state in states:
        if state not in LISTED_BY:
            raise click.BadParameter(f"'{state}' is none of {', '.join(LISTED_BY)}.", param_hint="--state")
    if not Database(store, database).exists():
        if as_json:
            print_json([])
        else:
            click.echo("There are no requests yet: 'asu-lora requests add' takes the first.")
        return
    ledger = read_ledger(store, database)
    say_if_foreign(ledger, store)
    found, busy = ledger.requests(states, overdue), at_work(ledger)
    said = {line.request: line.payload.get("sentence") for line in ledger.history(events=[AUDIT_FAILED])}
    unaudited = {request.id: said[request.id] for request in found if request.state == "trained" and request.id in said}
    if as_json:
        print_json(
            [
                as_dict(request) | {"runner": busy.get(request.id), "not_audited": unaudited.get(request.id)}
                for request in found
            ]
        )
        return
    rows = [
        (
            request.id,
            request.state + (f" by {busy[request.id]}" if request.id in busy else ""),
            day(request.due) + (" OVERDUE" if request.overdue() else ""),
            request.rows,
            request.owner or "",
            request.sentence or (f"not audited: {unaudited[request.id]}" if request.id in unaudited else ""),
        )
        for request in found
    ]
    if rows:
        print_table(None, ("Request", "state", "due (UTC)", "rows", "owner", "why"), rows, right=(3,), wrap=(5,))
    counts = ledger.counts()
    late = counts.pop("overdue")
    asked = dict.fromkeys([*states, *(["overdue"] if overdue else [])])
    if asked and not rows:  # the counts below are of all requests
        click.echo(f"No request is {' or '.join(asked)}. Of all:")
    told = ", ".join(f"{counts[state]} {state}" for state in STATES if state in counts)
    click.echo(f"{told or 'No requests'}{f'; {late} overdue' if late else ''}.")
