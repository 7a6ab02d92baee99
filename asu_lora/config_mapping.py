"""A config from a mapping, such as a YAML file holds: each value as the setting's own type."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from asu_lora.config import ForgetConfig
from asu_lora.errors import SettingError, meant


def config_from(values: dict[str, Any], source: str) -> ForgetConfig:
    """A config from a mapping, e.g. a YAML file.

    Raises:
        SettingError: an unknown key, a value of the wrong kind or out of range.
    """
    known = {spec.name: spec for spec in dataclasses.fields(ForgetConfig)}
    unknown = sorted(set(values) - set(known), key=str)
    if unknown:
        raise unknown_setting(source, unknown[0], known)
    return ForgetConfig(**{name: _converted(known[name], value, source) for name, value in values.items()})


def unknown_setting(source: str, name: object, known: Iterable[str]) -> SettingError:
    """The error of a setting that there is not, with the one that may have been meant."""
    near = meant(name, known := list(known))
    asked = f": did you mean '{near}'? Known" if near else "; known"
    return SettingError(f"{source} has the unknown setting '{name}'{asked} are {', '.join(known)}.")


def _converted(spec: dataclasses.Field, value: Any, source: str) -> Any:
    """A value as YAML has it (1e-3 is text there, a list of names is a list) as the setting's own type."""
    name, default = spec.name, spec.default
    if value is None:
        if default is None:
            return None
        raise SettingError(f"{source}: {name} has no value; leave the line out to get the default.")
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise SettingError(f"{source}: {name} should be true or false, not {value!r}.")
        return value
    if not isinstance(default, (int, float)) and name not in ("tau", "alpha"):
        if isinstance(value, dict):
            raise SettingError(f"{source}: {name} should be text, not {value!r}.")
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)
    if name == "tau" and value == "auto":
        return value
    whole = isinstance(default, int)
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or (whole and not number.is_integer()):
        raise SettingError(f"{source}: {name} should be a {'whole ' if whole else ''}number, not {value!r}.")
    return int(number) if whole else number
