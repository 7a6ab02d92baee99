"""``asu-lora audit keygen``: a key to sign certificates with."""

from pathlib import Path

import click

from asu_lora.cli.options import store_option


@click.command()
@click.option(
    "--out",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A new file for the private key, outside any store.  [default: the store's own key]",
)
@store_option
def keygen(out: Path | None, store: Path) -> None:
    """Make the key that signs certificates, and print its public half.

    The store makes one by itself with the first certificate; this prints that one's public half, too. Pass the
    public half on another way than the certificates: who checks one needs it.
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.audit.certificate.signing_key import KEY_NAME, key_of_store, make_signing_key

    key = make_signing_key(out) if out else key_of_store(AdapterStore(store))
    click.echo(f"Signs: {out or store / KEY_NAME} (keep it secret)", err=True)
    click.echo(key.public)
