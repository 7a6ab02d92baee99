"""What a search tries for a method: its learning rate, the retain loss's weight, and its own number."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from asu_lora.config import ForgetConfig
from asu_lora.losses import FORGET, own_settings
from asu_lora.losses.loss_settings import settings_text
from asu_lora.studies.methods import Method

LR, COEFFICIENT = "lr", "retain_coeff"


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, each order of magnitude alike."""

    low: float
    high: float


Space = dict[str, Range | tuple[Any, ...]]

RATES = Range(1e-4, 5e-3)
COEFFICIENTS = Range(0.3, 10.0)
# by retain loss or objective: the paper's own weight lies far from the others' (docs/method.md)
OWN_COEFFICIENTS = {"rmu": Range(1.0, 2000.0), "pdu": Range(1.0, 200.0)}
# by objective: a setting (beta, tau) or, with a dot, a number of the loss's own
OWN: dict[str, tuple[str, Range | tuple[Any, ...]]] = {
    "asu": ("tau", ("auto", 1.5, 2.0, 2.3, 3.0, 4.0, 6.0)),
    "asu+idk": ("tau", ("auto", 1.5, 2.0, 2.3, 3.0, 4.0, 6.0)),
    "npo": ("beta", Range(0.03, 1.0)),
    "dpo": ("beta", Range(0.03, 1.0)),
    "simnpo": (".beta", Range(1.0, 10.0)),
    "rmu": (".steering", Range(1.0, 100.0)),
    "undial": (".beta", Range(1.0, 30.0)),
    "altpo": (".beta", Range(0.03, 1.0)),
    "wga": (".beta", Range(0.1, 10.0)),
    "satimp": (".beta1", Range(1.0, 10.0)),
    "pdu": (".epsilon", Range(0.03, 1.0)),
}


def search_space(method: Method) -> Space:
    """Ranges and choices by the name of what is tried; a method without a retain loss has no weight of it."""
    space: Space = {LR: RATES}
    if method.retain_loss != "none":
        named = (OWN_COEFFICIENTS.get(name or "") for name in (method.retain_loss, method.objective))
        space[COEFFICIENT] = next(filter(None, named), COEFFICIENTS)
    if method.objective in OWN:
        name, values = OWN[method.objective]
        space[name.lstrip(".")] = values
    return space


def published(method: Method, config: ForgetConfig, given: Collection[str] = ()) -> dict[str, Any]:
    """The trial that every search begins with: the comparison's settings, and the paper's where these are its own.

    Args:
        given: settings that no paper replaces (:meth:`~asu_lora.studies.methods.Method.weights`).
    """
    found: dict[str, Any] = {LR: min(max(config.lr, RATES.low), RATES.high)}
    space = search_space(method)
    if isinstance(ends := space.get(COEFFICIENT), Range):
        found[COEFFICIENT] = _within(method.weights(config, given).get(COEFFICIENT, config.retain_coeff), ends)
    if method.objective in OWN:
        name, values = OWN[method.objective]
        if name.startswith("."):
            found[name[1:]] = FORGET[method.objective].settings[name[1:]]
        else:
            value = getattr(config, name)
            found[name] = _within(value, values) if isinstance(values, Range) else value if value in values else "auto"
    return found


def settings_of_trial(method: Method, tried: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Learning rate and further settings of a run, from what a search tried."""
    changes = {name: value for name, value in tried.items() if name != LR}
    name = OWN[method.objective][0] if method.objective in OWN else ""
    if name.startswith("."):
        text = settings_text({name[1:]: changes.pop(name[1:])})
        own_settings(method.objective or "", method.retain_loss or "none", text)  # within the loss's own range
        changes["loss_settings"] = text
    return tried[LR], changes


def _within(value: float, ends: Range) -> float:
    return min(max(value, ends.low), ends.high)
