"""A figure of shares with their intervals, side by side on one scale from 0 to 100 %."""

from collections.abc import Sequence
from dataclasses import dataclass

from asu_lora.reporting.html.shapes import Role, across, mark, picture, whisker, words

LANE = 17  # pixels between two roles of one track
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Interval:
    """One share in [0, 1] with its interval, and whose it is."""

    role: Role
    value: float
    low: float
    high: float

    def as_text(self) -> str:
        return f"{self.value:.0%} ({self.low:.0%} to {self.high:.0%})".replace("%", " %")


def track(what: str, intervals: Sequence[Interval]) -> str:
    """One row of the figure: each role in a lane of its own, so that none covers another."""
    height = LANE * len(intervals) + 6
    body = [f'<line x1="{across(tick)}" x2="{across(tick)}" y1="0" y2="{height}" class="grid"/>' for tick in TICKS]
    for lane, interval in enumerate(intervals):
        y = LANE * (lane + 0.5) + 3
        body.append(whisker(interval.role, interval.low, interval.high, y))
        body.append(mark(interval.role, across(interval.value), y))
    alt = f"{what}: " + "; ".join(f"{each.role.name} {each.as_text()}" for each in intervals)
    return picture("".join(body), height, alt)


def scale() -> str:
    """The scale beneath the last track."""
    anchors = {0.0: "start", 1.0: "end"}
    body = "".join(
        words(f"{tick:.0%}".replace("%", " %"), _edge(tick), 13, anchors.get(tick, "middle")) for tick in TICKS
    )
    return picture(body, 18, "scale from 0 to 100 percent")


def _edge(tick: float) -> str:
    return f"{tick:.0%}" if tick in (0.0, 1.0) else across(tick)
