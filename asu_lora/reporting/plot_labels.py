"""Where labels stand beside marks: no two overlap, the same every time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MARK = 3.0  # points, half a mark's width
GAP = 1.5  # points between a mark and its label, and between labels
STEP = 3.0  # points by which the search widens
FURTHEST = 60
DIRECTIONS = (0, 90, 270, 180, 45, 315, 135, 225, 22.5, 337.5, 157.5, 202.5, 67.5, 292.5, 112.5, 247.5)


@dataclass(frozen=True)
class Box:
    """A rectangle, in points."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """Area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return width * height if width > 0 and height > 0 else 0.0

    def within(self, other: "Box") -> bool:
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.bottom >= other.bottom
            and self.top <= other.top
        )

    def grown(self, by: float) -> "Box":
        return Box(self.left - by, self.bottom - by, self.right + by, self.top + by)


def place_labels(points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], bounds: Box) -> list[Box]:
    """A box for each point's label, as near to it as there is room within ``bounds``.

    The most crowded points choose first. Boxes overlap neither each other nor any mark; only where the bounds are
    too full for that does a label take the place with the least overlap.

    Args:
        points: the marks' middles, in points.
        sizes: (width, height) of each label.
    """
    marks = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in points]
    reach = max((width for width, _ in sizes), default=0.0)
    crowd = [sum(abs(x - a) < reach and abs(y - b) < reach / 2 for a, b in points) for x, y in points]
    placed: dict[int, Box] = {}
    for index in sorted(range(len(points)), key=lambda i: (-crowd[i], points[i], i)):
        least, chosen = math.inf, None
        for box in _candidates(points[index], sizes[index]):
            if not box.within(bounds):
                continue
            covered = sum(box.grown(GAP / 2).overlap(other) for other in (*marks, *placed.values()))
            if covered < least:
                least, chosen = covered, box
            if covered == 0:
                break
        placed[index] = chosen or next(_candidates(points[index], sizes[index]))
    return [placed[index] for index in range(len(points))]


def _candidates(point, size):
    """Boxes around a point, from near to far."""
    (x, y), (width, height) = point, size
    for step in range(FURTHEST):
        away = MARK + GAP + step * STEP
        for degrees in DIRECTIONS:
            right, up = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            middle_x, middle_y = x + right * (away + width / 2), y + up * (away + height / 2)
            yield Box(middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2)
