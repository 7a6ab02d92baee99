"""The figures of a certificate's page: every attack beside floor and ceiling, and the curves."""

from collections.abc import Sequence
from itertools import groupby

from asu_lora.audit.certificate.wording import KINDS, attack_name, figure_name, percent, with_interval
from asu_lora.audit.results import AttackResult, Reading
from asu_lora.reporting.html.curves import Curve, plot
from asu_lora.reporting.html.intervals import Interval, track
from asu_lora.reporting.html.shapes import BEFORE, CONTROL, NEVER, NOW, Role

ROLES = {"candidate": NOW, "ceiling": BEFORE, "floor": NEVER, "control": CONTROL}
_OTHERS = (
    Role("other", "", "diamond", False, "5 5"),
    Role("other", "", "square", False, "14 4"),
    Role("other", "", "circle", True, "1 5"),
    Role("other", "", "triangle", True, "6 2 1 2"),
)
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


def recovered_interval(reading: Reading) -> str:
    """The recovered share, with the candidate's interval carried through (floor and ceiling taken as they are)."""
    if reading.recovered is None or not reading.ceiling or not reading.floor:
        return "can't tell" if reading.recovered is None else percent(reading.recovered)
    span = reading.ceiling.value - reading.floor.value
    low, high = (
        max(0.0, (edge - reading.floor.value) / span) for edge in (reading.candidate.low, reading.candidate.high)
    )
    return with_interval(reading.recovered, low, min(high, max(1.0, reading.recovered)))


def attack_curves(attack: AttackResult) -> str:
    """The attack's curves over steps, layers or tries; nothing where it has none that can be drawn."""
    axis_name = next((name for name in AXES if name in attack.curves), None)
    if axis_name is None:
        return ""
    named = [(name, attack.curves[name]) for name in (*ROLES, *attack.curves) if name in attack.curves]
    named = [pair for pair in dict(named).items() if pair[0] != axis_name]
    others = iter(_OTHERS * len(named))
    curves = []
    for name, values in named:
        role = ROLES.get(name)
        if role is None:
            spare = next(others)
            role = Role(spare.key, name.replace("_", " "), spare.shape, spare.filled, spare.dashes)
        curves.append(Curve(role, values))
    x_name = AXES[axis_name]
    return plot(f"{attack_name(attack)} over {x_name}", attack.curves[axis_name], curves, x_name)
