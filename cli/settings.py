"""Options made from the fields of ForgetConfig, so that help, defaults and ranges stand in one place.

The fields are read without importing torch: ``asu_lora.settings`` is plain dataclasses.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from asu_lora.errors import SettingError
from asu_lora.settings import ForgetConfig, config_from


def setting_options(command: Callable) -> Callable:
    """Add an option for every setting, and ``--config``."""
    for spec in reversed(dataclasses.fields(ForgetConfig)):
        command = _option(spec)(command)
    return click.option(
        "--config", "config_file", type=click.Path(path_type=Path),
        help="YAML file with any of these settings (batch_size: 8); what is typed wins over it.")(command)


def _option(spec: dataclasses.Field) -> Callable:
    name, default = "--" + spec.name.replace("_", "-"), spec.default
    flags = [name] + ([spec.metadata["flag"]] if spec.metadata["flag"] else [])
    help, choices = spec.metadata["help"], spec.metadata["choices"]
    shown = "" if default is None else f"  [default: {_show(default)}]"
    # every default is None here: what wasn't typed must not override --config
    if isinstance(default, bool):
        flags = [f"{name}/--no-{name[2:]}"]
        return click.option(*flags, spec.name, default=None, help=help + (f"  [default: {'on' if default else 'off'}]"))
    if spec.name == "tau":
        return click.option(*flags, spec.name, type=TAU, default=None, help=help + shown)
    kind: Any = click.Choice(choices) if choices else {int: int, float: float}.get(type(default), str)
    if spec.name == "alpha":
        kind = float
    return click.option(*flags, spec.name, type=kind, default=None, help=help + shown)


def _show(value: Any) -> str:
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


def read_config(config_file: Path | None, typed: dict[str, Any]) -> ForgetConfig:
    """The config of ``--config`` and of what was typed.

    Raises:
        SettingError: the file can't be read, or a setting is unknown or out of range.
    """
    values: dict[str, Any] = {}
    if config_file is not None:
        import yaml

        try:
            values = yaml.safe_load(config_file.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise SettingError(f"The config {config_file} can't be read: {error.strerror}.") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingError(f"The config {config_file} is not YAML: {' '.join(str(error).split())}.") from error
        if not isinstance(values, dict):
            raise SettingError(f"The config {config_file} should hold settings such as 'batch_size: 8'.")
    typed = {key: value for key, value in typed.items() if value is not None}
    return config_from(values | typed, str(config_file or "the command line"))
