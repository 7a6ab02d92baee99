"""asu-lora init: a YAML file with every setting, for ``--config``."""

import dataclasses
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import Any

import click

from asu_lora.adding_up import ADDS_UP
from asu_lora.config import ForgetConfig

# What a run is about, with a value to begin from; the rest of forget's own options says what to do this once.
OWN = {
    "base": "smollm2-135m",
    "retain": "keep.jsonl",
    "retain_pool": "everything.jsonl",
    "retain_rows": 200,
    "retain_by": "base",
    "store": "adapters",
    "where": "{task_id: 1}",
    "on_top_of": "[first, 'second:0.5']",
    "heldout": "heldout.jsonl",
    "paraphrases": "paraphrases.jsonl",
    "adds_up": "true",
    "robust": "off",
    "idk_file": "refusals.txt",
}
WIDTH = 100


@click.command(short_help="Write a commented YAML file with every setting.")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default="asu-lora.yaml")
def init(file: Path) -> None:
    """Write FILE (asu-lora.yaml), which holds every setting with its default and what it does, for --config.

    Every line is a comment: take the '# ' away from what you change. '-' writes to stdout.

    \b
      asu-lora init
      asu-lora forget request.jsonl --config asu-lora.yaml
    """
    from asu_lora.cli.forget import forget

    text = commented(forget)
    if str(file) == "-":
        click.echo(text, nl=False)
        return
    try:
        with file.open("x", encoding="utf-8") as written:
            written.write(text)
    except FileExistsError as error:
        raise click.UsageError(f"{file} is there already and is not overwritten: name another file.") from error
    except OSError as error:
        raise click.UsageError(f"{file} can't be written: {error.strerror}.") from error
    click.echo(f"Settings are in {file}. Use it with: asu-lora forget FILE --config {file}")


def commented(command: click.Command) -> str:
    """The file: the command's own options, then the settings by group, each with its help, choices and default."""
    options = {option.name: option for option in command.params if isinstance(option, click.Option)}
    lines = [
        "# Settings of 'asu-lora forget', for --config. Take the '# ' away from what you change;",
        "# what is typed wins. The values under 'The request' are examples, all others are the defaults.",
    ]
    lines += ["", "# ---- The request ----"]
    for name, value in OWN.items():
        lines += ["", *_comment(options[name].help or ""), f"# {name}: {value}"]
    fields = sorted(dataclasses.fields(ForgetConfig), key=lambda spec: _GROUPS.index(spec.metadata["group"]))
    for group, specs in groupby(fields, key=lambda spec: spec.metadata["group"]):
        lines += ["", f"# ---- {group} ----"]
        for spec in specs:
            choices = spec.metadata["choices"]
            help = spec.metadata["help"] + (f" One of {', '.join(choices)}." if choices else "")
            lines += ["", *_comment(help), f"# {spec.name}: {_yaml(ADDS_UP.get(spec.name, spec.default))}"]
    return "\n".join(lines) + "\n"


_GROUPS = list(dict.fromkeys(spec.metadata["group"] for spec in dataclasses.fields(ForgetConfig)))


def _comment(text: str) -> list[str]:
    return [f"#   {line}" for line in wrap(text, WIDTH)]


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
