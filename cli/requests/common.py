"""What the commands share: where the ledger is, whose key it is, who is acting, and how rows are shown."""

import getpass
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asu_lora.cli.options import store_option

if TYPE_CHECKING:
    from asu_lora.requests.ledger.ledger import Ledger
    from asu_lora.requests.text_vault import TextVault


def ledger_options(command: Callable) -> Callable:
    """Where the ledger is."""
    command = click.option(
        "--database",
        envvar="ASU_LORA_DATABASE",
        show_envvar=True,
        metavar="URL",
        help="The ledger's database: postgresql://user@host/name.  [default: a SQLite file in the store]",
    )(command)
    return store_option(command)


def actor_option(command: Callable) -> Callable:
    """Who changes the ledger."""
    return click.option(
        "--actor",
        envvar="ASU_LORA_ACTOR",
        show_envvar=True,
        default=None,
        help="Who does this, for the history.  [default: this user on this machine]",
    )(command)


def key_option(command: Callable) -> Callable:
    """Where the key is."""
    return click.option(
        "--key-file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="ASU_LORA_REQUESTS_KEY_FILE",
        show_envvar=True,
        help="File with the key of the texts.  [default: ASU_LORA_REQUESTS_KEY, else the user's own key file]",
    )(command)


def acting(actor: str | None) -> str:
    """Who acts: as typed, or the user on this machine."""
    if actor:
        return actor
    user = "unknown"
    with suppress(Exception):  # a process without a user, as containers have
        user = getpass.getuser()
    return f"{user}@{platform.node()}"


def open_vault(key_file: Path | None, ledger_is_there: bool = True) -> "TextVault":
    """The vault, under the key that was given; the very first request makes one."""
    from asu_lora.requests.key import find_key
    from asu_lora.requests.text_vault import TextVault

    key = find_key(key_file, make=not ledger_is_there)
    if key.made:
        click.echo(
            f"A key for the requests' texts was made: {key.source}. Keep a copy elsewhere than the store; without it "
            "no text can be opened.",
            err=True,
        )
    return TextVault(key.secret)


def read_ledger(store: Path, database: str | None, actor: str | None = None) -> "Ledger":
    """The ledger, for commands that need no key; with the seal where the key is at hand."""
    from asu_lora.errors import KeyFault
    from asu_lora.requests.key import find_key
    from asu_lora.requests.ledger.ledger import open_ledger
    from asu_lora.requests.text_vault import TextVault

    seal = None
    with suppress(KeyFault):
        seal = TextVault(find_key(os.environ.get("ASU_LORA_REQUESTS_KEY_FILE")).secret).seal
    return open_ledger(store, database, actor=acting(actor), seal=seal)


def say_if_foreign(ledger: "Ledger", store: Path) -> None:
    """One sentence on stderr where a ledger that is shown is not this store's: its adapters lie elsewhere."""
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.requests.ledger.home import is_home

    if not is_home(ledger, AdapterStore(store)):
        click.echo(
            f"The ledger {ledger.database.shown} is that of another store: its adapters are not those in {store}.",
            err=True,
        )


def day(moment: str) -> str:
    """A moment as a table shows it: ``2026-01-31 23:59``, UTC."""
    return moment[:16].replace("T", " ")
