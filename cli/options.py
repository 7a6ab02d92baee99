"""Options that several commands share, each set as one decorator."""

from collections.abc import Callable
from pathlib import Path

import click


def store_option(command: Callable) -> Callable:
    return click.option(
        "--store", type=click.Path(file_okay=False, path_type=Path), envvar="ASU_LORA_STORE", default="adapters",
        show_default=True, show_envvar=True, help="The adapter store: a folder with one folder an adapter.",
    )(command)


def json_option(command: Callable) -> Callable:
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")(command)
