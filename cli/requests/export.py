"""``asu-lora requests export``: the ledger for other programs."""

from pathlib import Path

import click

from asu_lora.cli.requests.common import ledger_options, read_ledger


@click.command()
@click.option(
    "--format", "format_", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True, help="Of the file."
)
@click.option(
    "--what",
    type=click.Choice(["history", "requests"]),
    default="history",
    show_default=True,
    help="Every line of the history, or one line a request.",
)
@click.option("--out", "-o", type=click.Path(dir_okay=False, path_type=Path), help="File to write.  [default: stdout]")
@ledger_options
def export(format_: str, what: str, out: Path | None, store: Path, database: str | None) -> None:
    """Write the ledger as JSON Lines or CSV. No text of a request is in it.

    \b
      asu-lora requests export --out ledger.jsonl
      asu-lora requests export --what requests --format csv --out queue.csv
    """
    from asu_lora.files import disk_errors, write_atomic
    from asu_lora.requests.export import export as lines_of

    lines = list(lines_of(read_ledger(store, database), what, format_))
    if out is None:
        for line in lines:
            click.echo(line)
        return
    with disk_errors(out, "file"):
        write_atomic(out, "".join(f"{line}\n" for line in lines), mode=0o600)
    click.echo(f"{out}: {len(lines) - (format_ == 'csv')} lines of the {what}.", err=True)
