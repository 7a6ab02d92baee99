"""A figure of curves over steps, layers or time, told apart by dashes and marks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from asu_lora.reporting.html.shapes import MARGIN, Role, legend, mark, picture, words

HEIGHT, TOP, BOTTOM = 190, 10, 22  # pixels: all, above the plot, and below for the axis


@dataclass(frozen=True)
class Curve:
    """One curve: ``values[i]`` at ``axis[i]``; None where nothing was measured."""

    role: Role
    values: Sequence[float | None]


def plot(what: str, axis: Sequence[float], curves: Sequence[Curve], x_name: str, ticks: Sequence[str] = ()) -> str:
    """The figure with its legend.

    Args:
        what: what it shows, for those who can't see it.
        axis: where the points stand along x, rising.
        x_name: what x is, written beneath.
        ticks: what stands at the first and the last point instead of their numbers.
    """
    known = [value for curve in curves for value in curve.values if value is not None and math.isfinite(value)]
    if not known or len(axis) < 2 or axis[-1] <= axis[0]:
        return ""
    low, high = _range(known)
    lines, numbers = _grid(low, high)
    body = [lines]
    for curve in curves:
        body.append(_curve(axis, curve, low, high))
    first, last = ticks or (f"{axis[0]:g}", f"{axis[-1]:g}")
    body += [
        words(first, "0%", HEIGHT - 4),
        words(x_name, "50%", HEIGHT - 4, "middle"),
        words(last, "100%", HEIGHT - 4, "end"),
    ]
    figure = picture("".join(body), HEIGHT, _alt(what, axis, curves))
    return f'<div class="plot">{numbers}{figure}</div>' + legend([c.role for c in curves], lines=True)


def _range(known: Sequence[float]) -> tuple[float, float]:
    """Shares stand on the scale from 0 to 1; other figures on their own, a little wider than they are."""
    if min(known) >= 0 and max(known) <= 1:
        return 0.0, 1.0
    spread = (max(known) - min(known)) or abs(max(known)) or 1.0
    return min(known) - 0.05 * spread, max(known) + 0.05 * spread


def _y(value: float, low: float, high: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))


def _grid(low: float, high: float) -> tuple[str, str]:
    """Lines across the plot, and their numbers in a narrow picture of their own, to the left of it."""
    shares = (low, high) == (0.0, 1.0)
    lines, numbers = [], []
    for part in (0.0, 0.5, 1.0):
        value = low + part * (high - low)
        y = _y(value, low, high)
        text = f"{value:.0%}".replace("%", " %") if shares else f"{value:.3g}"
        lines.append(f'<line x1="0%" x2="100%" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        numbers.append(words(text, "100%", y + 4, "end"))
    beside = f'<svg width="42" height="{HEIGHT}" aria-hidden="true">{"".join(numbers)}</svg>'
    return "".join(lines), beside


def _curve(axis: Sequence[float], curve: Curve, low: float, high: float) -> str:
    """Pieces of line in percentages, and a mark at every point if they are few."""
    places = [
        (MARGIN + (100 - 2 * MARGIN) * (x - axis[0]) / (axis[-1] - axis[0]), _y(value, low, high))
        for x, value in zip(axis, curve.values, strict=False)
        if value is not None and math.isfinite(value)
    ]
    # a box of its own, 0 to 100 wide: a path knows no percentages
    path = " ".join(f"{x:.2f},{y:.1f}" for x, y in places)
    line = (
        f'<svg x="0" y="0" width="100%" height="{HEIGHT}" viewBox="0 0 100 {HEIGHT}" preserveAspectRatio="none">'
        f'<polyline points="{path}" class="curve" stroke-dasharray="{curve.role.dashes}"/></svg>'
    )
    every = max(1, math.ceil(len(places) / 12))
    shown = [place for number, place in enumerate(places) if number % every == 0 or number == len(places) - 1]
    marks = "".join(mark(curve.role, f"{x:.2f}%", y) for x, y in shown)
    return f'<g class="{curve.role.key}">{line}{marks}</g>'


def _alt(what: str, axis: Sequence[float], curves: Sequence[Curve]) -> str:
    told = []
    for curve in curves:
        known = [(x, value) for x, value in zip(axis, curve.values, strict=False) if value is not None]
        if known:
            top = max(known, key=lambda pair: pair[1])
            told.append(
                f"{curve.role.name} from {known[0][1]:.3g} to {known[-1][1]:.3g}, most {top[1]:.3g} at {top[0]:g}"
            )
    return f"{what}: " + "; ".join(told)
