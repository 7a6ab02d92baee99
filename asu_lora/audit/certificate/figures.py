"""The figures of a certificate's page: every attack beside floor and ceiling, and the curves."""

from collections.abc import Sequence
from itertools import groupby

from asu_lora.audit.certificate.wording import CURVES, KINDS, attack_name, figure_name, percent, with_interval
from asu_lora.audit.results import AttackResult, Reading
from asu_lora.reporting.html.curves import Curve, plot
from asu_lora.reporting.html.intervals import Interval, track
from asu_lora.reporting.html.shapes import BEFORE, CONTROL, NEVER, NOW

ROLES = {"candidate": NOW, "ceiling": BEFORE, "floor": NEVER, "control": CONTROL}
# What an attack calls the axis of its curves. Canonical JSON sorts keys, so that "the first one" would be lost.
AXES = {
    "step": "training steps",
    "steps": "training steps",
    "layer": "layer",
    "layers": "layer",
    "k": "tries",
    "samples": "samples",
    "epoch": "epochs",
}


def by_kind(attacks: Sequence[AttackResult]) -> list[tuple[str, str, list[AttackResult]]]:
    """(title, question, attacks) of each kind, in the order of :data:`KINDS`."""
    order = list(KINDS)
    ordered = sorted(attacks, key=lambda attack: order.index(attack.kind))
    return [(*KINDS[kind], list(group)) for kind, group in groupby(ordered, key=lambda attack: attack.kind)]


def attack_track(attack: AttackResult) -> str:
    """The attack's first reading: this model, floor, control and ceiling, each with its interval."""
    if not attack.readings:
        return ""
    reading = attack.readings[0]
    return track(f"{attack_name(attack)}, {figure_name(reading)}", intervals(reading))


def intervals(reading: Reading) -> list[Interval]:
    """The rates of a reading as marks, those that are there."""
    found = []
    for key in ("candidate", "floor", "control", "ceiling"):
        if rate := getattr(reading, key):
            found.append(Interval(ROLES[key], rate.value, rate.low, rate.high))
    return found


def recovered_interval(attack: AttackResult, reading: Reading) -> str:
    """The recovered share, with the candidate's interval carried through (floor and ceiling taken as they are).

    What tells rows apart brings nothing back: its share is called so.
    """
    text = _share_back(reading)
    return text if attack.of_knowledge or reading.recovered is None else f"told apart: {text}"


def _share_back(reading: Reading) -> str:
    if reading.recovered is None:
        return "can't tell" if reading.ceiling and reading.floor else "–"
    if not reading.ceiling or not reading.floor:
        return percent(reading.recovered)
    span = reading.ceiling.value - reading.floor.value
    low, high = (
        max(0.0, (edge - reading.floor.value) / span) for edge in (reading.candidate.low, reading.candidate.high)
    )
    return with_interval(reading.recovered, low, min(high, max(1.0, reading.recovered)))


def attack_curves(attack: AttackResult) -> list[tuple[str, str]]:
    """(what, figure) of the attack's curves over steps, layers or tries; empty where none can be drawn.

    A curve is called by its role, or by role and figure (``candidate rows``): each figure is a plot of its own.
    """
    axis_name = next((name for name in AXES if name in attack.curves), None)
    if axis_name is None:
        return []
    plots: dict[str, dict[str, list[float]]] = {}
    for name in sorted(attack.curves.keys() - {axis_name}):
        role, _, figure = name.partition(" ")
        role, figure = (role, figure) if role in ROLES else ("candidate", name)
        plots.setdefault(figure.replace("_", " "), {})[role] = attack.curves[name]
    x_name, found = AXES[axis_name], []
    for figure, curves in plots.items():
        what = CURVES.get(figure, figure) or (figure_name(attack.readings[0]) if attack.readings else "figures")
        drawn = [Curve(ROLES[role], curves[role]) for role in ROLES if role in curves]
        svg = plot(f"{attack_name(attack)}, {what} over {x_name}", attack.curves[axis_name], drawn, x_name)
        if svg:
            found.append((what, svg))
    return found
