"""What a probe runs over: temperatures, and groups of decoder layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from asu_lora.config import ForgetConfig
from asu_lora.errors import SettingError
from asu_lora.layer_ranges import parse_layers

DEFAULT_TAUS = "1,1.5,2,2.5,3,4,5,6,8"
DEFAULT_GROUPS = ("all", "lower", "middle", "upper")
MOST_TAUS = 100


@dataclass(frozen=True)
class LayerGroup:
    """Decoder layers that are smoothed together: their name, and their indices, ascending."""

    name: str
    layers: tuple[int, ...]

    @property
    def label(self) -> str:
        """``"upper (20-29)"``; the indices alone where they are the name."""
        text = _ranges(self.layers)
        return text if self.name == text else f"{self.name} ({text})"


def parse_taus(text: str) -> list[float]:
    """``"1:4:0.5"`` (first, last, step) or ``"1,2,3.5"`` into temperatures, ascending.

    1, the base itself, is always among them: it is what the others are compared with.

    Raises:
        SettingError: no such grid, or a temperature below 1.
    """
    ranged = ":" in text
    try:
        numbers = [float(part) for part in text.split(":" if ranged else ",")]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)) or (ranged and len(numbers) != 3):
        raise SettingError(
            f"The grid of temperatures '{text}' can't be read: write FIRST:LAST:STEP, such as 1:4:0.5, "
            "or a list, such as 1,2,3.5."
        )
    if ranged:
        first, last, step = numbers
        if step <= 0 or last < first or (last - first) / step > MOST_TAUS:
            raise SettingError(
                f"The grid of temperatures '{text}' should rise from FIRST to LAST in at most {MOST_TAUS} steps."
            )
        numbers = [first + step * i for i in range(math.floor((last - first) / step + 1e-9) + 1)]
    if min(numbers) < 1:
        raise SettingError(
            f"The grid of temperatures '{text}' holds {min(numbers):g}; a temperature is at least 1 (1 "
            "leaves the attention as it is, more smooths it)."
        )
    return sorted({1.0, *(round(number, 4) for number in numbers)})


def layer_groups(names: Sequence[str], number: int) -> list[LayerGroup]:
    """Groups of the layers of a base with ``number`` of them; one that repeats another is left out.

    Args:
        names: ``lower``, ``middle`` (the first and the second third), or what ``--smooth-layers`` takes:
            ``upper`` (the last), ``all``, ``4-20``, ``0,5-9``.

    Raises:
        SettingError: not such a name, or a layer the base doesn't have.
    """
    third = max(1, number // 3)
    thirds = {"lower": range(third), "middle": range(third, number - third)}
    found: dict[tuple[int, ...], str] = {}
    for text in names:
        name = text.strip().lower()
        chosen = thirds[name] if name in thirds else parse_layers(text, number)
        layers = tuple(range(number) if chosen is None else chosen)
        if layers and layers not in found:  # two layers have no middle third
            found[layers] = name
    if not found:
        raise SettingError(f"The layers {', '.join(names)} are none: the base has layers 0 to {number - 1}.")
    return [LayerGroup(name, layers) for layers, name in found.items()]


def default_group(groups: Sequence[LayerGroup], number: int) -> LayerGroup:
    """The group that ``asu-lora forget`` smooths by default, or the first where that isn't among them."""
    default = ForgetConfig().layers(number)
    wanted = tuple(range(number) if default is None else default)
    return next((group for group in groups if group.layers == wanted), groups[0])


def _ranges(layers: Sequence[int]) -> str:
    """``(0, 5, 6, 7)`` as ``"0,5-7"``."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][-1] + 1:
            parts[-1][1:] = [layer]
        else:
            parts.append([layer])
    return ",".join("-".join(map(str, part)) for part in parts)
