"""``asu-lora adapters import``, ``export``, ``push`` and ``pull``: between the store and elsewhere."""

from pathlib import Path

import click

from asu_lora.cli.options import store_option

name_option = click.option("--name", help="What to call it here, if not by its own name.")


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@name_option
@store_option
def import_(source: Path, name: str | None, store: Path) -> None:
    """Take an adapter into the store: a PEFT folder, or an archive of one (.tar.gz, .zip).

    A plain PEFT LoRA made elsewhere is welcome. Everything is verified first: a broken adapter, a pickle
    or an archive that climbs out of its folder is refused, and the store stays as it was.
    """
    from asu_lora.adapters.store import AdapterStore

    _taken_in(AdapterStore(store).import_(source, name))


@click.command()
@click.argument("name")
@click.argument("destination", type=click.Path(path_type=Path))
@store_option
def export(name: str, destination: Path, store: Path) -> None:
    """Write the adapter NAME to DESTINATION: one file if it ends in .tar.gz or .zip, else a folder.

    Nothing is overwritten. The folder is plain PEFT: PeftModel.from_pretrained, vLLM and others load it.

    \b
      asu-lora adapters export request request.tar.gz
    """
    from asu_lora.adapters.store import AdapterStore

    click.echo(f"{name} is in {AdapterStore(store).export(name, destination)}.")


@click.command()
@click.argument("name")
@click.option("--to", "repository", metavar="USER/REPO", help="A repository of the Hugging Face hub.")
@click.option("--to-folder", type=click.Path(path_type=Path), help="A new folder instead of the hub.")
@click.option("--public", is_flag=True, help="Let everybody see it, if the repository is new. It is private "
              "otherwise.")
@store_option
def push(name: str, repository: str | None, to_folder: Path | None, public: bool, store: Path) -> None:
    """Upload the verified adapter NAME to the hub.

    Log in before ('hf auth login', or HF_TOKEN). The model card holds counts and figures, no text of the
    request.

    \b
      asu-lora adapters push request --to me/llama-forgets-request
    """
    from asu_lora.adapters.push_pull import push as push_adapter
    from asu_lora.adapters.store import AdapterStore

    if (repository is None) == (to_folder is None):
        raise click.UsageError("Say where to: --to USER/REPO or --to-folder FOLDER.")
    where = repository if to_folder is None else to_folder.absolute().as_uri()
    click.echo(f"{name} is at {push_adapter(AdapterStore(store), name, where, private=not public)}.")


@click.command()
@click.argument("source", metavar="USER/REPO|FOLDER")
@name_option
@click.option("--revision", help="A branch, tag or commit of the repository.")
@store_option
def pull(source: str, name: str | None, revision: str | None, store: Path) -> None:
    """Fetch an adapter from the hub, or from a folder, into the store.

    Only safetensors, JSON and Markdown are fetched, never pickles, and the adapter is verified before it is
    added.
    """
    from asu_lora.adapters.push_pull import pull as pull_adapter
    from asu_lora.adapters.store import AdapterStore

    _taken_in(pull_adapter(AdapterStore(store), source, name, revision))


def _taken_in(adapter) -> None:
    if adapter.manifest:
        about = f"it makes {adapter.base_id} forget {adapter.manifest.request.forget_rows} rows"
    else:
        about = f"a LoRA for {adapter.base_id or 'an unnamed base'} without a manifest"
    click.echo(f"{adapter.name} is in the store ({adapter.path}): {about}.")
