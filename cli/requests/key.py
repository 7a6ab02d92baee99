"""``asu-lora requests key``: a new key for the requests' texts."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--out",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write it to, for its owner's eyes alone.",
)
def key(out: Path | None) -> None:
    """Make a new key for the texts of requests: 32 random bytes.

    Texts are sealed with it (AES-256-GCM). Give it to 'add' and 'run' in ASU_LORA_REQUESTS_KEY, or as a file:

    \b
      asu-lora requests key --out /etc/asu-lora/requests.key
      export ASU_LORA_REQUESTS_KEY_FILE=/etc/asu-lora/requests.key

    Keep a copy elsewhere than the store: without it no text can be opened. A ledger takes one key.
    """
    from asu_lora.requests.key import new_key, write_key

    if out is None:
        click.echo(new_key())
    else:
        write_key(out, new_key())
        click.echo(f"A new key: {out}")
