"""A loss's own numbers, as ``--loss-settings beta=4.5,gamma=0`` gives them."""

import math
from collections.abc import Mapping

from asu_lora.errors import SettingError
from asu_lora.losses.loss import Loss


def parse_settings(text: str) -> dict[str, float]:
    """The numbers in ``"beta=4.5,gamma=0"``, by name.

    Raises:
        SettingError: no name and number, a number that is not finite, or a name twice.
    """
    found: dict[str, float] = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        name, equals, value = (part.strip() for part in entry.partition("="))
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (name and equals and math.isfinite(number)):
            raise SettingError(
                f"loss_settings has '{entry}'; write NAME=NUMBER, several separated by commas: beta=4.5,gamma=0."
            )
        if name in found:
            raise SettingError(f"loss_settings gives {name} twice.")
        found[name] = number
    return found


def settings_of(losses: Mapping[str, type[Loss]], text: str) -> dict[str, dict[str, float]]:
    """What each of the losses is made with: its paper's defaults, changed by the text.

    Args:
        losses: of a run, by set.
        text: see :func:`parse_settings`; a name goes to every loss that has it.

    Raises:
        SettingError: a name that none of them has.
    """
    given = parse_settings(text)
    known = {name: value for loss in losses.values() for name, value in loss.settings.items()}
    for name in given:
        if name not in known:
            names = " and ".join(dict.fromkeys(loss.name for loss in losses.values()))
            has = f"has {', '.join(known)}" if known else "has no settings of its own"
            raise SettingError(f"loss_settings gives {name}, but {names} {has}.")
    return {
        which: {name: given.get(name, value) for name, value in loss.settings.items()} for which, loss in losses.items()
    }


def settings_text(settings: Mapping[str, float]) -> str:
    """The settings as :func:`parse_settings` reads them, in full precision."""
    return ",".join(f"{name}={value!r}" for name, value in settings.items())
