"""What the shell's tab key offers beside options and adapters: tickets of requests, and attacks of an audit.

Whatever can't be read offers nothing: a half-typed line is no place for an error.
"""

import os
from pkgutil import iter_modules
from typing import get_args

import click


def tickets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The requests in the ledger that begin so, in their order; those on the line already are left out."""
    from asu_lora.errors import AsuLoraError
    from asu_lora.requests.ledger.database import Database
    from asu_lora.requests.ledger.ledger import Ledger

    store = ctx.params.get("store") or os.environ.get("ASU_LORA_STORE") or "adapters"
    database = ctx.params.get("database") or os.environ.get("ASU_LORA_DATABASE")
    typed = ctx.params.get(param.name or "")
    typed = typed if isinstance(typed, tuple | list) else ()
    try:
        kept = Ledger(Database(store, database)).requests()  # of whatever schema: a tab migrates nothing
    except AsuLoraError:
        return []
    return [each.id for each in kept if each.id.startswith(incomplete) and each.id not in typed]


def attack_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Attacks and kinds of them that begin as the last word of a list with commas does; that list stays before them.

    Attacks are their files' names, and no file is imported: the tab key waits for no torch.
    """
    from asu_lora.audit import attacks
    from asu_lora.audit.results import Kind

    before, comma, begun = incomplete.rpartition(",")
    names = sorted({module.name for module in iter_modules(attacks.__path__)} | set(get_args(Kind)))
    return [f"{before}{comma}{name}" for name in names if name.startswith(begun) and name not in before.split(",")]
