"""What a request keeps: a file, or with ``--retain auto`` the rows of a pool that are nearest to it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from asu_lora.cli.options import machine_options, retain_option, retain_pool_options

if TYPE_CHECKING:
    from asu_lora.requests.chosen_retain import RetainChooser


def retain_choice_options(command: Callable) -> Callable:
    """``--retain``, the pool and the base that ``auto`` chooses with; see :func:`chosen`."""
    for option in (
        machine_options,
        click.option(
            "--base",
            envvar="ASU_LORA_BASE",
            default="smollm2-135m",
            show_default=True,
            show_envvar=True,
            help="With --retain auto: the model that says which rows are near, the one that is to forget.",
        ),
        retain_pool_options,
        retain_option(" 'auto' chooses the rows nearest to each request from --retain-pool."),
    ):
        command = option(command)
    return command


def chosen(retain: str | None, choosing: dict[str, Any]) -> "tuple[str | None, RetainChooser | None]":
    """The retain file, or with --retain auto what chooses the rows, its base loaded."""
    from asu_lora.cli.forget import retain_set

    pool = retain_set(retain, choosing)
    if pool is None or isinstance(pool, str):
        return pool, None
    from asu_lora.cli.progress import Bars
    from asu_lora.cli.quiet import quiet_libraries

    quiet_libraries()
    from asu_lora.models.loading import load_base
    from asu_lora.requests.chosen_retain import RetainChooser

    progress = Bars()
    click.get_current_context().call_on_close(progress.close)
    progress.stage("Loading the base")
    base = load_base(
        choosing["base"], choosing["precision"], choosing["device"], trust_remote_code=choosing["trust_remote_code"]
    )
    return None, RetainChooser(base, pool, progress)
