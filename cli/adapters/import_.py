"""``asu-lora adapters import``: a folder or an archive into the store."""

from pathlib import Path

import click

from asu_lora.cli.options import name_option, store_option


@click.command("import", short_help="Take an adapter into the store: a PEFT folder or archive.")
@click.argument("source", type=click.Path(path_type=Path))
@name_option
@store_option
def import_(source: Path, name: str | None, store: Path) -> None:
    """Take an adapter into the store: a PEFT folder, or an archive of one (.tar.gz, .zip).

    A plain PEFT LoRA made elsewhere is welcome. Everything is verified first: a broken adapter, a pickle
    or an archive that climbs out of its folder is refused, and the store stays as it was. Beside the adapter its card,
    licence and tokenizer files are taken, and nothing else that lies there; a certificate stays if it is of this
    adapter and unchanged.
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.cli.adapters.tables import print_taken_in

    kept = AdapterStore(store)
    print_taken_in(kept, kept.import_(source, name))
