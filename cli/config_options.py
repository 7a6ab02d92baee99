"""Options made from the fields of ForgetConfig, so that help, defaults and ranges stand in one place.

The fields are read without importing torch: ``asu_lora.config`` is plain dataclasses.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import click

from asu_lora.adding_up import ADDS_UP, OBJECTIVE, unless_given
from asu_lora.cli.help_pages import GroupedOption
from asu_lora.config import ForgetConfig
from asu_lora.config_mapping import config_from, unknown_setting
from asu_lora.errors import SettingError
from asu_lora.robust import OFF, ROBUST


def setting_options(command: Callable, without: Collection[str] = (), adds_up: str = "off") -> Callable:
    """Add an option for every setting (but those named), and ``--config``, a file with any of the command's options.

    ``adds_up`` is what help says of ``--adds-up`` where nothing is typed: "off", or "on" and when.
    """
    for spec in reversed(dataclasses.fields(ForgetConfig)):
        if spec.name not in without:
            command = _option(spec, adds_up != "off")(command)
    given = ", ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in ADDS_UP.items())
    command = click.option(
        "--adds-up/--no-adds-up",
        default=None,
        help="Train adapters that can be summed: each alone on the base, right together. Stands for "
        f"{given}; what else is given wins over it.  [default: {adds_up}]",
    )(command)
    meant = "; ".join(
        f"{name} for " + ", ".join(f"--{key.replace('_', '-')} {value:g}" for key, value in settings.items())
        for name, settings in ROBUST.items()
        if settings
    )
    command = click.option(
        "--robust",
        type=click.Choice(list(ROBUST)),
        default=None,
        help="How hard to work at forgetting that lasts, once merged and rounded to 4 bits and in other words. "
        f"Stands for settings ({meant}); what else is given wins over it.  [default: off]",
    )(command)
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        callback=_config_file,
        help="YAML file with any of these options (batch_size: 8); what is typed wins over it.",
    )(command)


def _option(spec: dataclasses.Field, adds_up: bool) -> Callable:
    name, default = "--" + spec.name.replace("_", "-"), spec.default
    flags = [name] + ([spec.metadata["flag"]] if spec.metadata["flag"] else [])
    help, choices = spec.metadata["help"], spec.metadata["choices"]
    shown = "" if default is None else f"  [default: {_defaults(spec.name, default, adds_up)}]"
    kind: Any = None
    # every default is None here: what wasn't typed must not override --config
    if isinstance(default, bool):
        flags = [f"{name}/--no-{name[2:]}"]
    elif spec.name == "tau":
        kind = TAU
    else:
        kind = click.Choice(choices) if choices else {int: int, float: float}.get(type(default), str)
    if spec.name == "alpha":
        kind = float
    group = spec.metadata["group"]
    return click.option(*flags, spec.name, cls=GroupedOption, group=group, type=kind, default=None, help=help + shown)


def _defaults(name: str, default: Any, adds_up: bool) -> str:
    """A setting's default, and the one that it has where ``--adds-up`` is turned the other way."""
    if name not in ADDS_UP:
        return _show(default)
    if adds_up:
        return f"{_show(ADDS_UP[name])}; with --no-adds-up {_show(default)}"
    return f"{_show(default)}; with --adds-up {_show(ADDS_UP[name])}"


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


class _Tau(click.ParamType):
    name = "number|auto"

    def convert(self, value, param, ctx):
        if value == "auto" or isinstance(value, float):
            return value
        try:
            return float(value)
        except ValueError:
            self.fail(f"'{value}' is neither 'auto' nor a number.", param, ctx)


TAU = _Tau()


class Config(NamedTuple):
    """What ``--config`` holds of a run's settings, and what to call it in messages."""

    source: str = "the command line"
    values: Mapping[str, Any] = MappingProxyType({})


def _config_file(ctx: click.Context, param: click.Parameter, file: Path | None) -> Config:
    """Read ``--config``: settings are returned, the command's other options get new defaults."""
    if file is None:
        return Config()
    source, values = f"The config {file}", _read_yaml(file)
    options = {option.name for option in ctx.command.params}
    settings = [spec.name for spec in dataclasses.fields(ForgetConfig) if spec.name in options]
    others = {
        _key(option): option
        for option in ctx.command.params
        if isinstance(option, click.Option) and option.name not in settings and option is not param
    }
    if unknown := sorted(set(values) - set(settings) - set(others), key=str):
        raise unknown_setting(source, unknown[0], [*others, *settings])
    defaults = {
        others[key].name: _default(others[key], key, value, source) for key, value in values.items() if key in others
    }
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return Config(source, {key: value for key, value in values.items() if key in settings})


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8-sig")) or {}
    except OSError as error:
        raise SettingError(f"The config {file} can't be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date such as 2020-13-45 is a ValueError
        raise SettingError(f"The config {file} is not YAML: {' '.join(str(error).split())[:300]}.") from error
    if not isinstance(values, dict):
        raise SettingError(f"The config {file} should hold settings such as 'batch_size: 8'.")
    return values


def _key(option: click.Option) -> str:
    """An option's key in the file: ``dry_run`` for ``--dry-run``."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


def _default(option: click.Option, key: str, value: Any, source: str) -> Any:
    if option.is_flag:
        if not isinstance(value, bool):
            raise SettingError(f"{source}: {key} should be true or false, not {value!r}.")
        return value
    if option.multiple:
        if isinstance(value, dict):
            return [f"{column}={wanted}" for column, wanted in value.items()]
        return list(map(str, value)) if isinstance(value, list) else [str(value)]
    if value is False and isinstance(option.type, click.Choice) and "off" in option.type.choices:
        return "off"  # which YAML reads as false
    if value is None or isinstance(value, (dict, list)):
        raise SettingError(f"{source}: {key} should be text, not {value!r}.")
    return str(value)


def is_given(config: Config, typed: Mapping[str, Any], name: str) -> bool:
    """Whether a setting was typed or stands in ``--config``, so that no recipe decides it."""
    return typed.get(name) is not None or name in config.values


def named_settings(config: Config, typed: Mapping[str, Any]) -> frozenset[str]:
    """The settings that ``--config`` and what was typed name, whatever they set them to."""
    return frozenset({*config.values, *(name for name, value in typed.items() if value is not None)})


def read_config(config: Config, typed: dict[str, Any], *, alone: bool = False, papers: bool = True) -> ForgetConfig:
    """The settings of ``--adds-up`` and ``--robust``, of ``--config``, and of what was typed: what comes later wins.

    Another objective than the default comes with the retain loss and the weights of its paper, unless they are given.

    Args:
        papers: without it, it doesn't: each method of a study brings its own.
        alone: adapters are trained that know nothing of one another. These are to add up, unless they have another
            objective than the default: what ``--adds-up`` stands for was chosen for that one.

    Raises:
        SettingError: a setting is of the wrong kind or out of range.
    """
    typed = {key: value for key, value in typed.items() if value is not None}
    adds_up = typed.pop("adds_up", None)
    if adds_up is None:
        adds_up = alone and {**config.values, **typed}.get("objective", OBJECTIVE) == OBJECTIVE
    robust, given = typed.pop("robust", OFF), {**config.values, **typed}
    meant = unless_given(given if papers else {}, adds_up=adds_up, robust=robust)
    if not papers:
        meant.pop("attacker_lr", None)  # a method of a study may never look at the answers that one relearns
    return config_from({**meant, **given}, config.source)


def given_settings(config: Config, typed: Mapping[str, Any]) -> frozenset[str]:
    """The settings that ``--config``, ``--adds-up`` and what was typed name, whatever they set them to."""
    return named_settings(config, typed).union(("forget_coeff", *ADDS_UP) if typed.get("adds_up") else ())
