"""An adapter with its weight, as people type it: ``a``, or ``a:0.5``."""

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from asu_lora.errors import SettingError

Adapter = str | Path | tuple[str | Path, float]


def several(adapters: str | Path | Iterable[Adapter]) -> list[Adapter]:
    """Adapters as a list, where one alone may be given without one: a text would be read letter by letter."""
    return [adapters] if isinstance(adapters, (str, Path)) else list(adapters)


def parse_adapter(text: str | Path) -> tuple[str, float]:
    """``"name"`` or ``"name:0.5"`` into a name and a weight; a folder may have a colon in its path.

    Raises:
        SettingError: the weight is no number.
    """
    name, weight = typed_adapter(text)
    return name, 1.0 if weight is None else weight


def typed_adapter(text: str | Path) -> tuple[str, float | None]:
    """As :func:`parse_adapter`, with None where no weight was typed."""
    name, colon, weight = str(text).rpartition(":")
    if not colon or "/" in weight or "\\" in weight or ("/" in str(text) and os.path.isdir(os.path.expanduser(text))):
        return str(text), None
    try:
        if math.isfinite(float(weight)):
            return name, float(weight)
        raise ValueError(weight)
    except ValueError as error:
        raise SettingError(f"The adapter '{text}' should be NAME or NAME:WEIGHT; '{weight}' is no number.") from error


def as_typed(adapters: Sequence[tuple[str, float]]) -> list[str]:
    """Adapters as one types them to get these weights: of several without a weight others might be fitted."""
    all_full = len(adapters) > 1 and all(weight == 1 for _, weight in adapters)
    return [
        f"{name}:1" if all_full and not at else weighted(name, weight) for at, (name, weight) in enumerate(adapters)
    ]


def weighted(name: str, weight: float) -> str:
    """A name and a weight as :func:`parse_adapter` reads them; 1 is left out."""
    return name if weight == 1 else f"{name}:{weight:.9g}"
