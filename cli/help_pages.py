"""Help in groups: what is typed every day by default, and all of it with ``--help-all``.

A command of class :class:`GroupedCommand` shows its own options and the settings of :data:`EVERYDAY`; how many others
there are, and in which groups, stands beneath. Groups are those of the settings (``asu_lora/config.py``).
"""

import re
from collections.abc import Iterable
from typing import Any

import click

EVERYDAY = ("rank", "lr", "epochs", "precision", "device")
EVERYTHING = "asu_lora.help_all"
HYPHEN = "\ue000"  # of private use: stands for an option's hyphen while lines are broken


class GroupedOption(click.Option):
    """An option that belongs to a group; shown by default if its name is one of :data:`EVERYDAY`."""

    def __init__(self, *args: Any, group: str | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.group = group

    @property
    def everyday(self) -> bool:
        return self.group is None or self.name in EVERYDAY


class WholeOptions(click.HelpFormatter):
    """Breaks no line within an option: what stands on two lines can't be copied, nor searched for."""

    def write_text(self, text: str) -> None:
        super().write_text(_joined(text))

    def write_dl(self, rows: Iterable[tuple[str, str]], *args: Any, **kwargs: Any) -> None:
        super().write_dl([(term, _joined(meaning)) for term, meaning in rows], *args, **kwargs)

    def getvalue(self) -> str:
        return super().getvalue().replace(HYPHEN, "-")


def _joined(text: str) -> str:
    return re.sub(r"--[a-z-]+", lambda option: option[0].replace("-", HYPHEN), text)


class _Context(click.Context):
    formatter_class = WholeOptions


class GroupedCommand(click.Command):
    """A command whose ``--help`` is short and whose ``--help-all`` shows every option under its group."""

    context_class = _Context

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        params = super().get_params(ctx)
        at = len(params) if params[-1:] != [self.get_help_option(ctx)] else len(params) - 1
        return [*params[:at], _help_all(), *params[at:]]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        everything = ctx.meta.get(EVERYTHING, False)
        groups: dict[str | None, list[tuple[str, str]]] = {}
        hidden: dict[str, int] = {}
        for param in self.get_params(ctx):
            group, everyday = getattr(param, "group", None), getattr(param, "everyday", True)
            if isinstance(param, click.Argument) or (record := param.get_help_record(ctx)) is None:
                continue
            if everyday or everything:
                groups.setdefault(group if everything else None, []).append(record)
            else:
                hidden[group or ""] = hidden.get(group or "", 0) + 1
        for group, records in groups.items():
            with formatter.section(group or "Options"):
                formatter.write_dl(records)
        if hidden:
            more = ", ".join(f"{group.lower()} ({count})" for group, count in hidden.items())
            formatter.write_paragraph()
            formatter.write_text(f"{sum(hidden.values())} more options, seldom needed: {more}.")
            in_yaml = ", or in YAML with 'asu-lora init'" if any(p.name == "config" for p in self.params) else ""
            formatter.write_text(f"See them with '{ctx.command_path} --help-all'{in_yaml}.")


def _help_all() -> click.Option:
    return click.Option(
        ["--help-all"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_all,
        help="Show every option, in groups, and exit.",
    )


def _show_all(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        ctx.meta[EVERYTHING] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()
