"""Marks of figures: a shape for each role, so that they are told apart without colour, and curves by dashes too.

An SVG here has no ``viewBox``: places along x are percentages, sizes are pixels. So a figure is as wide as the page,
on a phone and on paper, and its letters stay as large as those of the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

MARGIN = 1.5  # percent left free on both sides, for the half of a mark at 0 or 1


@dataclass(frozen=True)
class Role:
    """How one of several things that are compared is drawn.

    Attributes:
        key: its CSS class, which gives the colour.
        name: for people.
        shape: "diamond", "square", "circle" or "triangle".
        filled: whether the shape is.
        dashes: of its curve, an SVG dash pattern; "" for a whole line.
    """

    key: str
    name: str
    shape: str
    filled: bool
    dashes: str


NOW = Role("now", "this model", "diamond", True, "")
BEFORE = Role("before", "before (ceiling)", "square", True, "9 4")
NEVER = Role("never", "never saw it (floor)", "circle", False, "2 4")
CONTROL = Role("control", "control adapter", "triangle", False, "10 3 2 3")

_SHAPES = {
    "diamond": '<path d="M0-7 7 0 0 7-7 0Z" class="{kind}"/>',
    "square": '<rect x="-5" y="-5" width="10" height="10" class="{kind}"/>',
    "circle": '<circle r="5.5" class="{kind}"/>',
    "triangle": '<path d="M0-6 6 5-6 5Z" class="{kind}"/>',
}


def across(share: float) -> str:
    """Where a share in [0, 1] stands along x, as a percentage of the width."""
    return f"{MARGIN + (100 - 2 * MARGIN) * min(max(share, 0.0), 1.0):.2f}%"


def mark(role: Role, x: str, y: float) -> str:
    """A role's shape at a place (x a percentage, y in pixels)."""
    shape = _SHAPES[role.shape].format(kind="full" if role.filled else "open")
    return f'<svg x="{x}" y="{y:g}" overflow="visible" class="{role.key}">{shape}</svg>'


def whisker(role: Role, low: float, high: float, y: float) -> str:
    """An interval as a line with ends."""
    left, right = across(low), across(high)
    ends = "".join(f'<line x1="{x}" x2="{x}" y1="{y - 4:g}" y2="{y + 4:g}" class="whisker"/>' for x in (left, right))
    return f'<g class="{role.key}"><line x1="{left}" x2="{right}" y1="{y:g}" y2="{y:g}" class="whisker"/>{ends}</g>'


def words(text: str, x: str, y: float, anchor: str = "start") -> str:
    """A text in a figure; whatever is in it stays a text."""
    return f'<text x="{x}" y="{y:g}" text-anchor="{anchor}" class="soft">{escape(text)}</text>'


def picture(body: str, height: int, alt: str) -> str:
    """The SVG element; ``alt`` tells those who can't see it what it shows."""
    return f'<svg role="img" aria-label="{escape(alt)}" width="100%" height="{height}">{body}</svg>'


def legend(roles: Sequence[Role], lines: bool = False) -> str:
    """What the shapes mean; with ``lines``, each on a piece of its curve."""
    items = []
    for role in roles:
        line = f'<line x1="0" x2="34" y1="9" y2="9" class="curve" stroke-dasharray="{role.dashes}"/>' if lines else ""
        width = 34 if lines else 18
        shape = f'<svg x="{width / 2:g}" y="9" overflow="visible">{_shape(role)}</svg>'
        items.append(
            f'<li><svg width="{width}" height="18" aria-hidden="true" class="{role.key}">{line}{shape}</svg>'
            f"{escape(role.name)}</li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _shape(role: Role) -> str:
    return _SHAPES[role.shape].format(kind="full" if role.filled else "open")
