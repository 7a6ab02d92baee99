"""``asu-lora adapters push``: up to the hub."""

from pathlib import Path

import click

from asu_lora.cli.options import adapter_names, store_option


@click.command()
@click.argument("name", shell_complete=adapter_names)
@click.option("--to", "repository", metavar="USER/REPO", help="A repository of the Hugging Face hub.")
@click.option("--to-folder", type=click.Path(path_type=Path), help="A new folder instead of the hub.")
@click.option(
    "--public",
    is_flag=True,
    help="Let everybody see it. A new repository is private otherwise, and a public one is refused.",
)
@store_option
def push(name: str, repository: str | None, to_folder: Path | None, public: bool, store: Path) -> None:
    """Upload the verified adapter NAME to the hub.

    Log in before ('hf auth login', or HF_TOKEN). The model card holds counts and figures, no text of the
    request. An adapter that the repository holds is replaced, in one commit; a repository of anything else is refused.

    \b
      asu-lora adapters push request --to me/llama-forgets-request
    """
    from asu_lora.adapters.push_pull import push as push_adapter
    from asu_lora.adapters.store import AdapterStore

    if (repository is None) == (to_folder is None):
        raise click.UsageError("Say where to: --to USER/REPO or --to-folder FOLDER.")
    if public and repository is None:
        raise click.UsageError("--public is for the hub: leave it out with --to-folder.")
    where = repository or (to_folder or Path()).absolute().as_uri()
    click.echo(f"{name} is at {push_adapter(AdapterStore(store), name, where, private=not public)}.")
