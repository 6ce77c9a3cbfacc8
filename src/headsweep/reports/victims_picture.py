"""All victims of a grid as one picture: what each method left, and what it cost, as SVG.

A line for every victim, the last is their mean for methods tried on all: on the left excess LFR
before (hollow) and after each method, on the right the change of ACC, both in points. Every number
in it is one of the tables (``headsweep.reports.across``). Six methods are drawn at most, those that
leave least, and none that only replicates a released script.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from headsweep.errors import UserError
from headsweep.foreign import in_html
from headsweep.reports.across import Across, Ending
from headsweep.reports.picture import opened
from headsweep.reports.tables import BELOW, BELOW_TOLD

MOST = 6  # methods: marks that can be told apart
SHAPES = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",  # circle
    "M-5-5h10v10h-10z",  # square
    "M0-6.5L6.5 0L0 6.5L-6.5 0z",  # diamond
    "M0-6L6 5h-12z",  # triangle
    "M-6-2h4v-4h4v4h4v4h-4v4h-4v-4h-4z",  # plus
    "M0 6L6-5h-12z",  # triangle, down
)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito 2008
LABELS, LEFT, RIGHT, GAP, ROW, TOP = 170, 430, 190, 60, 26, 76
LETTER, LINE = 8, 22  # a letter of a name, a line of the legend
MEAN = "mean"
APART = 3  # between the marks of two methods, so that both are seen


@dataclass(frozen=True)
class Panel:
    """Where a measure is drawn: from ``x`` on, ``width`` wide, ``low`` to ``high`` points."""

    title: str
    x: float
    width: float
    low: float
    high: float

    def at(self, points: float) -> float:
        """Return where a number of points stands."""
        return self.x + self.width * (points - self.low) / (self.high - self.low)

    def ticks(self) -> list[int]:
        """Return about five round numbers."""
        span = self.high - self.low
        step = next(s for s in (1, 2, 5, 10, 20, 25, 50) if span / s <= 6)
        return [n * step for n in range(round(self.low) // step, round(self.high) // step + 1)
                if self.low <= n * step <= self.high]  # fmt: skip


def picture_of(found: Across | None, notes: Sequence[str] = ()) -> str:
    """Return all victims as an SVG file.

    ``notes``: what a reader must know of the choice of cells; it stands in the file's description.

    Raises:
        UserError: the results are of a single victim.

    """
    if found is None:
        raise UserError(
            "a picture is of two victims or more", "--format html draws the charts of one"
        )
    methods = shown(found)
    if not methods:
        raise UserError(
            "a picture shows what methods leave, and nothing was done to these victims",
            "run a method that does something, or give --format html",
        )
    ends = {method: found.ends[method] for method in methods}
    before = {v: x for v, x in found.before.items() if any(v in own for own in ends.values())}
    rows = {victim: [own.get(victim) for own in ends.values()] for victim in before}
    average, victims = mean(before.values()), len(before)
    whole = found.tried(methods)
    means = [_mean(own, before, whole) for own in ends.values()]
    lines_of = [(name, before[name], row) for name, row in rows.items()]
    lines_of.append((MEAN, average, means))
    drawn = [end for _, _, row in lines_of for end in row if end is not None]
    labels = max(LABELS, round(LETTER * max(map(len, rows))) + 24)
    panels = (
        _panel("points of excess LFR left", labels, LEFT,
               [0.0, *before.values(), *(end.left for end in drawn)]),
        _panel("change of ACC, points", labels + LEFT + GAP, RIGHT,
               [0.0, *(end.change for end in drawn)]),
    )  # fmt: skip
    width = labels + LEFT + GAP + RIGHT + 30
    named = [method + BELOW * _below(ends[method]) for method in methods]
    legend = _legend(named, width)
    top = TOP + LINE * (len(legend) - 1)
    height = top + ROW * len(lines_of) + 50
    more = len(found.ends) - len(methods) - ("nothing" in found.ends)
    told_too = [f"{more} more methods are not drawn"] * (more > 0)
    told_too += [BELOW_TOLD.rstrip(".")] * any(map(_below, ends.values()))
    lines = opened(width, height, told(average, victims, methods, means))
    lines += [f"<desc>{in_html('; '.join([*told_too, *notes]))}</desc>"] * bool(told_too or notes)
    lines += [mark for line in legend for mark in line]
    for panel in panels:
        lines += _axis(panel, top, height - 50)
    for number, (victim, was, row) in enumerate(lines_of):
        y = top + ROW * (number + 0.5)
        bold = ' font-weight="600"' if number == victims else ""
        lines.append(
            f'<text x="{labels - 16}" y="{y + 5}" text-anchor="end"{bold}>{in_html(victim)}</text>'
        )
        lines.append(f'<circle class="line" cx="{panels[0].at(100 * was):.1f}" cy="{y}" r="5"/>')
        for place, end in enumerate(row):
            if end is not None:
                apart = y + APART * (place - (len(methods) - 1) / 2)
                lines.append(_mark(place, panels[0].at(100 * end.left), apart))
                lines.append(_mark(place, panels[1].at(100 * end.change), apart))
    return "\n".join([*lines, "</svg>"]) + "\n"


def shown(found: Across) -> list[str]:
    """Return which methods are drawn: those that leave least on average, six at most.

    They come by name, so that two pictures of the same methods have the same marks.
    """
    means = {m: mean(e.left for e in ends.values()) for m, ends in found.ends.items()}
    some = [m for m in means if m != "nothing" and not found.last(m)]
    whole = found.tried(some)
    return sorted(sorted(some, key=lambda m: (found.tried_on(m) < whole, means[m]))[:MOST])


def _below(ends: Mapping[str, Ending]) -> bool:
    """Tell whether a method ended below the accuracy allowed somewhere."""
    return any(BELOW in end.mark for end in ends.values())


def told(before: float, victims: int, methods: Sequence[str], ends: Sequence[Ending | None]) -> str:
    """Return what the picture shows, in words."""
    parts = [
        f"{method} {100 * end.left:.1f} at {100 * end.change:+.1f} of ACC"
        for method, end in zip(methods, ends, strict=True)
        if end is not None
    ]
    said = "; ".join([f"{100 * before:.1f} points before", *parts])
    return f"Excess LFR of {victims} victims, mean: {said}."


def _mean(own: Mapping[str, Ending], victims: Collection[str], most: int) -> Ending | None:
    """Return the mean over all victims, where a method was tried on all, and all of their seeds."""
    if sum(len(end.seeds) for end in own.values()) < most:
        return None
    ends = [own[victim] for victim in victims]
    return Ending(mean(e.left for e in ends), mean(e.change for e in ends), 0.0)


def _panel(title: str, x: float, width: float, values: Sequence[float]) -> Panel:
    low, high = 100 * min(values), 100 * max(values)
    margin = max(0.5, 0.03 * (high - low))
    return Panel(title, x, width, low - margin, high + margin)


def _legend(methods: Sequence[str], width: float) -> list[list[str]]:
    """Return what the marks mean, in as many lines as the picture is wide for."""
    x, y = 112.0, 22
    lines = [
        [
            f'<circle class="line" cx="22.0" cy="{y}" r="5"/>',
            f'<text x="34.0" y="{y + 5}">as it is</text>',
        ]
    ]
    for place, method in enumerate(methods):
        if x + 18 + LETTER * len(method) > width:
            x, y = 16.0, y + LINE
            lines.append([])
        lines[-1] += [
            _mark(place, x + 6, y),
            f'<text x="{x + 18}" y="{y + 5}">{in_html(method)}</text>',
        ]
        x += 40 + LETTER * len(method)
    return lines


def _axis(panel: Panel, top: float, bottom: float) -> Iterator[str]:
    yield f'<text x="{panel.x}" y="{top - 14}" font-weight="600">{panel.title}</text>'
    for tick in panel.ticks():
        x = panel.at(tick)
        heavy = ' stroke-width="2"' if tick == 0 else ""
        yield f'<path class="thin"{heavy} d="M{x:.1f} {top}V{bottom}"/>'
        yield (
            f'<text class="soft" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" '
            f'font-size="12">{tick}</text>'
        )


def _mark(place: int, x: float, y: float) -> str:
    return (
        f'<path transform="translate({x:.1f} {y})" d="{SHAPES[place]}" fill="{COLOURS[place]}" '
        'fill-opacity="0.85"/>'
    )
