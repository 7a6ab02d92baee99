"""Options that several commands share, each set as one decorator."""

import os
from collections.abc import Callable, Collection
from pathlib import Path

import click
from click.core import ParameterSource

from asu_lora.cli.console import readable
from asu_lora.cli.help_pages import GroupedOption


def adapter_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The names in the store that begin so, for the shell's tab key."""
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.errors import AsuLoraError

    store = ctx.params.get("store") or os.environ.get("ASU_LORA_STORE") or "adapters"
    try:
        return [name for name in AdapterStore(store).names() if name.startswith(incomplete)]
    except AsuLoraError:
        return []  # a store that can't be read offers nothing


def store_option(command: Callable) -> Callable:
    return click.option(
        "--store",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="ASU_LORA_STORE",
        default="adapters",
        show_default=True,
        show_envvar=True,
        help="The adapter store: a folder with one folder an adapter.",
    )(command)


def json_option(command: Callable) -> Callable:
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")(command)


def base_option(command: Callable) -> Callable:
    return click.option(
        "--base",
        envvar="ASU_LORA_BASE",
        default="smollm2-135m",
        show_default=True,
        show_envvar=True,
        help="The model: a hub id, a folder, or smollm2-135m, which needs no download.",
    )(command)


def adapter_option(command: Callable) -> Callable:
    return click.option(
        "--adapter",
        "-a",
        "adapters",
        multiple=True,
        metavar="NAME[:WEIGHT]",
        shell_complete=adapter_names,
        help="An adapter of the store, or a PEFT folder; repeat it to stack several.",
    )(command)


def where_option(command: Callable) -> Callable:
    return click.option(
        "--where",
        multiple=True,
        metavar="COLUMN=VALUE",
        callback=_pairs,
        help="Only rows of FILE whose column has this value (--where task_id=1).",
    )(command)


def machine_options(command: Callable) -> Callable:
    """Precision, device and the base's own code, for commands that load a base without training."""
    for option in (
        click.option(
            "--precision",
            type=click.Choice(["nf4", "bf16", "fp16", "fp32"]),
            default="nf4",
            show_default=True,
            help="What the base's weights are held in.",
        ),
        click.option("--device", default=None, help="cpu, cuda, cuda:1, ...  [default: the best there is]"),
        remote_code_option,
    ):
        command = option(command)
    return command


def remote_code_option(command: Callable) -> Callable:
    """For every command that loads a base."""
    return click.option(
        "--trust-remote-code",
        cls=GroupedOption,
        group="Machine",
        is_flag=True,
        help="Run model code that comes with the base's checkpoint.",
    )(command)


def prompt_options(command: Callable) -> Callable:
    """What stands in every prompt, for commands that score or ask; by default what the adapters were trained with."""
    for option in (
        click.option(
            "--template-date",
            cls=GroupedOption,
            group="Prompts",
            metavar="YYYY-MM-DD",
            help="What a chat template that writes a date takes for today.  [default: the adapters', else today]",
        ),
        click.option(
            "--system-prompt",
            cls=GroupedOption,
            group="Prompts",
            metavar="TEXT",
            help="System turn before every conversation that has none; '' for none.  [default: the adapters']",
        ),
    ):
        command = option(command)
    return command


def row_options(default: str) -> Callable[[Callable], Callable]:
    """The same, and the length of rows."""

    def add(command: Callable) -> Callable:
        return click.option(
            "--max-length",
            cls=GroupedOption,
            group="Prompts",
            type=click.IntRange(8),
            help=f"Most tokens of a row, prompt included.  [default: {default}]",
        )(prompt_options(command))

    return add


def retain_option(more: str = "") -> Callable[[Callable], Callable]:
    """What must be kept; ``more`` is what a command does with it."""
    return click.option(
        "--retain",
        metavar="FILE",
        help=f"What must be kept: the same formats as FILE.{more}  [default: built-in general questions]",
    )


def is_typed(name: str) -> bool:
    """Whether an option of the command that runs stands on its line, whatever its value."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def retain_pool_options(command: Callable) -> Callable:
    """What ``--retain auto`` chooses from, and how."""
    for option in (
        click.option(
            "--retain-by",
            cls=GroupedOption,
            group="Retain rows",
            type=click.Choice(["base", "encoder"]),
            default="base",
            show_default=True,
            help="What says which rows are near: the base's own hidden states, or a sentence encoder (the extra "
            "'encoder').",
        ),
        click.option(
            "--retain-rows",
            cls=GroupedOption,
            group="Retain rows",
            type=click.IntRange(1),
            default=200,
            show_default=True,
            help="How many rows --retain auto chooses.",
        ),
        click.option(
            "--retain-pool",
            metavar="FILE",
            help="What --retain auto chooses from: rows like those of FILE, or a dataset on the hub. Rows that "
            "tell what must be forgotten are left out.",
        ),
    ):
        command = option(command)
    return command


def out_option(help: str, default: str | None = None) -> Callable[[Callable], Callable]:
    """A folder to write; required where there is no default."""
    return click.option(
        "--out",
        "-o",
        type=click.Path(file_okay=False, path_type=Path),
        default=default,
        required=default is None,
        show_default=True,
        help=help,
    )


def scoring_models_options(command: Callable) -> Callable:
    """The models behind two of the scores."""
    for option in (
        click.option(
            "--nli",
            "--nli-judge",
            "nli",
            cls=GroupedOption,
            group="Scoring models",
            metavar="MODEL|URL",
            help="What judges entailment: the hub id or folder of a sequence classifier, or the address of an "
            "OpenAI-compatible server on this machine (http://127.0.0.1:8000/v1, with #MODEL where it has several).  "
            "[default: deberta-v3-base-tasksource-nli]",
        ),
        click.option(
            "--encoder",
            cls=GroupedOption,
            group="Scoring models",
            metavar="MODEL",
            help="Sentence encoder behind cosine similarity: hub id or folder.  [default: paraphrase-MiniLM-L6-v2]",
        ),
    ):
        command = option(command)
    return command


def scoring_options(command: Callable, suites: Collection[str] = ("tofu",)) -> Callable:
    """What a model is scored on, and with which models; ``task`` is None for every row."""
    more = " MUSE and WMDP come from the hub by default." if len(suites) > 1 else ""
    command = scoring_models_options(command)
    for option in reversed(
        (
            click.option(
                "--suite", type=click.Choice(list(suites)), help="A benchmark's sets instead of your own files."
            ),
            click.option("--data", metavar="DIR", help=f"The suite's folder, or its hub id (locuslab/TOFU).{more}"),
            click.option("--split", default="forget01", show_default=True, help="TOFU's forget split."),
            click.option(
                "--task",
                default="1",
                show_default=True,
                callback=_none_for_all,
                help="task_id within TOFU's split, where it has any; 'all' for every row.",
            ),
            click.option(
                "--questions", type=click.IntRange(1), default=300, show_default=True, help="Most questions of a set."
            ),
        )
    ):
        command = option(command)
    return command


def check_suite(suite: str | None, data: str | None) -> None:
    """Refuse TOFU without its files: unlike the others', its place must be said."""
    if suite == "tofu" and not data:
        raise click.UsageError("--suite needs --data: the folder with its files, or its hub id.")


def _none_for_all(ctx, param, task):
    return None if task == "all" else task


def _pairs(ctx, param, values):
    pairs = []
    for value in values:
        column, equals, wanted = value.partition("=")
        if not equals or not column:
            raise click.BadParameter(f"'{value}' is not COLUMN=VALUE.")
        if column in dict(pairs):
            raise click.BadParameter(f"the column '{column}' is named twice; a row has one value of it.")
        pairs.append((readable(column), readable(wanted)))
    return pairs


name_option = click.option("--name", help="What to call it here, if not by its own name.")
