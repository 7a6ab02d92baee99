"""``asu-lora adapters export``: out of the store, as a folder, an archive or GGUF."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asu_lora.cli.console import print_json
from asu_lora.cli.options import adapter_names, json_option, store_option

if TYPE_CHECKING:
    from asu_lora.adapters.store import AdapterStore

FORMATS = ("peft", "gguf")


@click.command(short_help="Write the adapter NAME as a PEFT folder, archive or GGUF.")
@click.argument("name", shell_complete=adapter_names)
@click.argument("destination", type=click.Path(path_type=Path), required=False)
@click.option(
    "--format",
    "-f",
    "format_",
    type=click.Choice(FORMATS),
    help="peft: what transformers, vLLM and TGI load. gguf: one file for llama.cpp and Ollama.  "
    "[default: gguf if DESTINATION ends in .gguf, else peft]",
)
@click.option(
    "--precision", "-p", type=click.Choice(("fp32", "fp16")), help="What GGUF holds the numbers in.  [default: fp32]"
)
@click.option(
    "--base", help="For GGUF: the base, of which only the config is read.  [default: the one the adapter names]"
)
@store_option
@json_option
def export(
    *,
    name: str,
    destination: Path | None,
    format_: str | None,
    precision: str | None,
    base: str | None,
    store: Path,
    as_json: bool,
) -> None:
    """Write the adapter NAME to DESTINATION: one file if it ends in .tar.gz, .zip or .gguf, else a folder.

    Without DESTINATION it becomes NAME.tar.gz or NAME.gguf in this folder. Nothing is overwritten. The folder is
    plain PEFT: PeftModel.from_pretrained, vLLM and others load it.

    \b
      asu-lora adapters export request request.tar.gz
      asu-lora adapters export request --format gguf
      llama-cli -m base.gguf --lora request.gguf
    """
    from asu_lora.adapters.store import AdapterStore

    kept = AdapterStore(store)
    gguf = destination is not None and destination.suffix == ".gguf"
    chosen = format_ or ("gguf" if gguf else "peft")
    if chosen == "gguf":
        place = destination or Path(f"{name}.gguf")
        return _say(name, _export_gguf(kept, name, place, base, precision or "fp32"), chosen, as_json)
    if precision:
        raise click.UsageError("--precision is for --format gguf: a PEFT folder keeps the numbers as they are.")
    if gguf:
        raise click.UsageError(f"{destination} ends in .gguf, which --format peft doesn't write.")
    return _say(name, kept.export(name, destination or Path(f"{name}.tar.gz")), chosen, as_json)


def _say(name: str, place: Path, format_: str, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "path": str(place), "format": format_})
    else:
        click.echo(f"{name} is in {place}.")


def _export_gguf(store: "AdapterStore", name: str, destination: Path, base: str | None, precision: str) -> Path:
    from asu_lora.adapters.gguf_export import export_gguf
    from asu_lora.cli.quiet import quiet_libraries

    own = store.get(name).base_id
    named = base or own
    if not named:
        raise click.UsageError(f"The adapter {name} names no base: say it with --base.")
    quiet_libraries()
    from asu_lora.bases.base_config import base_config, config_if_here

    trained_on = config_if_here(own) if own and own != named else None
    return export_gguf(store, name, destination, base_config(named), precision, trained_on)
