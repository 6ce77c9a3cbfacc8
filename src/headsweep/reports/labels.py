"""Where the names of points stand on a chart, so that few cover each other, points or whiskers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

SIDES = {
    "top right": (1, 1),
    "bottom right": (1, -1),
    "top left": (-1, 1),
    "bottom left": (-1, -1),
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top center": (0, 1),
    "bottom center": (0, -1),
}
LETTER, LINE, GAP = 0.0085, 0.034, 0.008  # shares of a chart 800 x 400 pixels, at 11 pixels
MARKER = 0.012
ROUNDS, ON_A_NAME = 3, 12.0  # how much a covered name matters, of a whisker


@dataclass(frozen=True)
class Box:
    """A part of the chart, in shares of its width and height."""

    left: float
    bottom: float
    right: float
    top: float

    def shared(self, other: Box) -> float:
        """Return the area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)


@dataclass(frozen=True)
class Point:
    """A named point with the ends of its whiskers, in the units of the axes."""

    name: str
    x: float
    y: float
    across: tuple[float, float]
    along: tuple[float, float]


def sides(
    points: Sequence[Point], x_lines: Sequence[float] = (), y_lines: Sequence[float] = ()
) -> dict[str, str]:
    """Return for each name the side of its point, chosen in turn where it covers least.

    Args:
        points: those with a name.
        x_lines: where upright lines stand that the axes reach to, in the units of the axis.
        y_lines: where level lines do.

    """
    if not points:
        return {}
    x = _scale([end for p in points for end in p.across] + [*x_lines])
    y = _scale([end for p in points for end in p.along] + [*y_lines])
    taken: list[tuple[Box, float]] = []  # and how much it matters
    for p in points:
        marker = Box(x(p.x) - MARKER / 2, y(p.y) - MARKER, x(p.x) + MARKER / 2, y(p.y) + MARKER)
        across = Box(x(p.across[0]), y(p.y) - 0.004, x(p.across[1]), y(p.y) + 0.004)
        along = Box(x(p.x) - 0.002, y(p.along[0]), x(p.x) + 0.002, y(p.along[1]))
        taken += [(marker, 4.0), (across, 1.0), (along, 1.0)]
    found: dict[str, str] = {}
    labels: dict[str, Box] = {}
    for p in [*points] * ROUNDS:  # again, since the first did not know of the last
        boxes = {side: _label(p.name, x(p.x), y(p.y), *way) for side, way in SIDES.items()}
        others = [(box, ON_A_NAME) for name, box in labels.items() if name != p.name]
        side = min(boxes, key=lambda s: sum(boxes[s].shared(b) * w for b, w in taken + others))
        found[p.name], labels[p.name] = side, boxes[side]
    return found


def _scale(values: Sequence[float]) -> Callable[[float], float]:
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return lambda value: (value - low) / span


def _label(name: str, x: float, y: float, right: int, up: int) -> Box:
    width = LETTER * len(name)
    left = x + GAP if right > 0 else x - GAP - width if right < 0 else x - width / 2
    bottom = y + GAP if up > 0 else y - GAP - LINE if up < 0 else y - LINE / 2
    return Box(left, bottom, left + width, bottom + LINE)
