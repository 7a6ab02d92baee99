"""``asu-lora requests withdraw``: a request is taken back."""

from pathlib import Path

import click

from asu_lora.cli.completion import tickets
from asu_lora.cli.console import ask_first
from asu_lora.cli.requests.common import actor_option, ledger_options, read_ledger


@click.command(short_help="Take TICKET back: its adapter is removed.")
@click.argument("request", shell_complete=tickets, metavar="TICKET")
@click.option("--reason", help="Why, for the history; no personal data.")
@click.option("--forget-text", is_flag=True, help="Destroy its text too.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@ledger_options
@actor_option
def withdraw(*, request: str, reason, forget_text: bool, yes: bool, store: Path, database: str | None, actor) -> None:
    """Take TICKET back: its adapter is removed, and what it made the model forget is known again.

    A runner that is training it stops by itself. Combined adapters and served models that hold it are named: build
    them anew ('asu-lora requests run --consolidate' does) and deploy that.
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.requests.forget_text import forget_text as destroy
    from asu_lora.requests.withdrawal import withdraw as take_back

    ledger, kept = read_ledger(store, database, actor), AdapterStore(store)
    ledger.get(request)
    if not yes:
        ask_first(f"Withdraw {request} and remove its adapter from {kept.root}?")
    done, gone = take_back(ledger, kept, request, reason), False
    try:
        gone = forget_text and destroy(ledger, kept, request)
    finally:  # what was done is said, also where the text can't go
        click.echo(
            f"{request} is withdrawn. "
            + (f"Its adapter {done.adapter} is removed." if done.adapter else "It had no adapter.")
            + (" Its text is destroyed." if gone else "")
        )
        if done.left:
            click.echo(f"{done.left} in {kept.root} stays: it was not trained for this request.", err=True)
        if done.trained_on_top:
            click.echo(f"Trained on top of it, train again: {', '.join(done.trained_on_top)}.", err=True)
        if done.inside:
            click.echo(f"Still inside: {', '.join(done.inside)}. Build and deploy these anew without it.", err=True)
