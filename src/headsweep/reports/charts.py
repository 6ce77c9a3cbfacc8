"""The charts, as Plotly figures. The page themes them; here stands what they show.

Colours are those of Okabe and Ito (2008), which colour-blind people can tell apart; each group has
a marker of its own as well. Needs ``headsweep[report]``.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from headsweep.errors import MissingExtra
from headsweep.foreign import one_line
from headsweep.judge.statistics import Rate
from headsweep.model.mask import NAMES, rows_by_kind
from headsweep.reports.comparison import Setting, Standing, is_replication
from headsweep.reports.labels import Point, sides

Spec = dict[str, Any]
GROUPS = {
    "strategy": ("#0072B2", "circle"),
    "baseline": ("#E69F00", "diamond"),
    "control": ("#009E73", "square"),
    "as released": ("#CC79A7", "x"),
}
FLOOR = "#D55E00"
MIDDLE = "#888888"  # seen on light and on dark
LEGEND = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"}
CONTROLS = ("random", "nothing")
CROSS = "\u00d7"  # on a pruned unit


def plotly() -> Any:
    """Return Plotly's graph objects; raises UserError where it is not installed."""
    try:
        import plotly.graph_objects as graphs
    except ImportError as error:
        raise MissingExtra("the report needs Plotly", "report", error) from error
    return graphs


def bundle() -> str:
    """Return the source of plotly.js: its part for charts with axes, to stand in the page."""
    return (files("headsweep.reports") / "plotly-cartesian.min.js").read_text(encoding="utf-8")


def group_of(base: str, kind: str) -> str:
    """Return what a method is: a strategy, a baseline, a control or an as-released form."""
    if base in CONTROLS:
        return "control"
    if is_replication(base):
        return "as released"
    return "baseline" if kind == "defense" else "strategy"


def _spec(figure: Any) -> Spec:
    spec: Spec = json.loads(figure.to_json())
    spec["layout"].pop("template", None)
    return spec


def _at_once(traces: Any, layout: Spec) -> Spec:
    """Return a chart that is made whole: adding to one is slow, and a page may have a thousand."""
    return _spec(plotly().Figure(traces, {"template": "none", **layout}))


def _by_group(standings: Sequence[Standing]) -> dict[str, list[Standing]]:
    found: dict[str, list[Standing]] = {name: [] for name in GROUPS}
    for standing in standings:
        found[group_of(standing.base, standing.kind)].append(standing)
    return {name: some for name, some in found.items() if some}


def _bar(
    values: Sequence[float], rates: Sequence[Rate | tuple[float, float]], colour: str = ""
) -> Spec:
    ends = [(r.low, r.high) if isinstance(r, Rate) else r for r in rates]
    return {
        "type": "data",
        "symmetric": False,
        "array": [100 * (high - v) for v, (_, high) in zip(values, ends, strict=True)],
        "arrayminus": [100 * (v - low) for v, (low, _) in zip(values, ends, strict=True)],
        "thickness": 1,
    } | ({"color": colour} if colour else {})


def scatter(setting: Setting) -> Spec:
    """Return ACC against excess LFR, each method with both intervals."""
    graphs = plotly()
    figure = graphs.Figure()
    side = sides([_point(s) for s in setting.standings], [setting.twin_accuracy.mean], [0.0])
    for name, some in _by_group(setting.standings).items():
        colour, symbol = GROUPS[name]
        x, y = [s.accuracy.mean for s in some], [s.excess.mean for s in some]
        figure.add_scatter(
            name=name,
            mode="markers+text",
            x=[100 * v for v in x],
            y=[100 * v for v in y],
            error_x=_bar(x, [s.accuracy_bounds for s in some], faded(colour)),
            error_y=_bar(y, [s.interval for s in some], faded(colour)),
            text=[_as_it_stands(s.method) for s in some],
            textposition=[side[s.method] for s in some],
            textfont={"size": 11},
            marker={"color": colour, "symbol": symbol, "size": 10},
            hovertemplate="%{text}<br>ACC %{x:.1f}%<br>excess LFR %{y:+.1f} points<extra></extra>",
        )
    figure.add_hline(
        y=0, line={"color": FLOOR, "dash": "dash"}, name="floor: the twin's LFR", showlegend=True
    )
    figure.add_vline(
        x=100 * setting.twin_accuracy.mean,
        line={"color": FLOOR, "dash": "dot", "width": 1},
        name="the twin's ACC",
        showlegend=True,
    )
    figure.update_layout(
        xaxis={"title": {"text": "ACC, percent"}},
        yaxis={"title": {"text": "excess LFR, points"}},
        legend=LEGEND,
        height=520,
    )
    return _spec(figure)


def _as_it_stands(name: str) -> str:
    """Return a name that the charts, which obey some HTML, show as it is."""
    return html.escape(one_line(name), quote=False)


def _point(one: Standing) -> Point:
    low, high = one.accuracy_bounds
    ends = (one.interval.low, one.interval.high)
    return Point(one.method, one.accuracy.mean, one.excess.mean, (low, high), ends)


def faded(colour: str) -> str:
    """Return #RRGGBB let through, for whiskers, which must not drown the names."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.45)"


def bars(setting: Setting) -> Spec:
    """Return matched LFR of every method, each seed a point, with the floor drawn in."""
    graphs = plotly()
    figure, floor = graphs.Figure(), setting.floor.mean
    order = list(reversed(setting.everything))
    for name, some in _by_group(order).items():
        values = [s.matched.mean for s in some]
        figure.add_bar(
            name="as released (replication only)" if name == "as released" else name,
            orientation="h",
            y=[_as_it_stands(s.method) for s in some],
            x=[100 * v for v in values],
            error_x=_bar(values, [_shifted(s) for s in some], MIDDLE),
            marker={"color": GROUPS[name][0], "opacity": 0.5 if name == "as released" else 1},
            hovertemplate="%{y}<br>matched LFR %{x:.1f}%<extra></extra>",
        )
    figure.add_scatter(
        name="each seed",
        mode="markers",
        y=[_as_it_stands(s.method) for s in order for _ in s.seeds],
        x=[100 * value for s in order for value in s.matched.values],
        customdata=[seed for s in order for seed in s.seeds],
        marker={"color": "#FFFFFF", "size": 6, "line": {"color": "#000000", "width": 1}},
        hovertemplate="%{y}, seed %{customdata}<br>matched LFR %{x:.1f}%<extra></extra>",
    )
    figure.add_vline(
        x=100 * floor,
        line={"color": FLOOR, "dash": "dash", "width": 3},
        name=f"floor {100 * floor:.1f}",
        showlegend=True,
    )
    figure.update_layout(
        xaxis={"title": {"text": "matched LFR, percent"}, "range": [0, 104]},
        yaxis={
            "categoryorder": "array",
            "categoryarray": [_as_it_stands(s.method) for s in order],
            "automargin": True,
        },
        legend=LEGEND,
        barmode="overlay",
        height=190 + 26 * len(order),
    )
    return _spec(figure)


def _shifted(one: Standing) -> tuple[float, float]:
    """Return the interval of matched LFR: that of what is above the floor of its own seeds."""
    floor = one.matched.mean - one.excess.mean
    return one.interval.low + floor, one.interval.high + floor


def heads(mask: Mapping[str, Any], scores: Sequence[Sequence[float]] | None) -> Spec:
    """Return layer x unit: the score as colour, a cross on what was pruned.

    Of attention's units, or where there are none the FFN groups.
    """
    kind, rows = next(iter(rows_by_kind(mask).items()))
    name = NAMES[kind]
    width = max(map(len, rows))
    colour = scores[: len(rows)] if scores else rows
    return _at_once(
        plotly().Heatmap(
            z=[[*map(_shown, row), *[None] * (width - len(row))] for row in colour],
            text=[["" if keep else CROSS for keep in row] for row in rows],
            customdata=[["kept" if keep else "pruned" for keep in row] for row in rows],
            texttemplate="%{text}",
            textfont={"size": 18},
            colorscale="Cividis",
            xgap=2,
            ygap=2,
            showscale=bool(scores),
            colorbar={"title": {"text": "score"}, "thickness": 12},
            hovertemplate="layer %{y}, " + name + " %{x}<br>"
            + ("score %{z:.4g}<br>" if scores else "")
            + "%{customdata}<extra></extra>",
        ),
        {
            "xaxis": {"title": {"text": name}, "dtick": 1, "showgrid": False},
            "yaxis": {
                "title": {"text": "layer"}, "dtick": 1, "autorange": "reversed", "showgrid": False
            },
            "height": 130 + 42 * len(rows),
        },
    )  # fmt: skip


def _shown(score: float) -> float:
    """Return a score with the digits that are shown: all of them would be half of a large page."""
    return float(f"{score:.4g}")


def path(steps: Sequence[Sequence[Any]], minimum: float | None, share: str = "accuracy") -> Spec:
    """Return accuracy along the search: each trial with what is known of its accuracy.

    ``steps`` are (action, pruned, accuracy at least, accuracy at most, held). A trial is cut
    short once it is decided, so its accuracy is known as a range; the marker stands at the end
    nearest to the bound. ``share``: what the share of right answers is called.
    """
    graphs = plotly()
    traces = []
    looks = {True: ("held", "#0072B2", "circle"), False: ("below the bound", FLOOR, "x")}
    for held, (name, colour, symbol) in looks.items():
        some = [(i, step) for i, step in enumerate(steps, start=1) if bool(step[4]) is held]
        if not some:
            continue
        ends = [(step[2], step[3]) for _, step in some]
        marks = [_mark(low, high, minimum, held) for low, high in ends]
        traces += [
            graphs.Scatter(
                name=name,
                mode="markers",
                x=[step[1] for _, step in some],
                y=[100 * mark for mark in marks],
                error_y=_bar(marks, ends, faded(colour)),
                marker={"color": colour, "symbol": symbol, "size": 9},
                customdata=[
                    [i, _as_it_stands(str(step[0])), 100 * step[2], 100 * step[3]]
                    for i, step in some
                ],
                hovertemplate="trial %{customdata[0]}: %{customdata[1]}<br>%{x} pruned<br>"
                f"{share} "
                "%{customdata[2]:.1f} to %{customdata[3]:.1f}%<extra></extra>",
            )
        ]
    layout = {
        "xaxis": {"title": {"text": "units pruned"}},
        "yaxis": {"title": {"text": f"validation {share}, percent"}},
        "legend": LEGEND,
        "height": 340,
    }
    return _at_once(traces, layout | ({} if minimum is None else _line(minimum, share)))


def _line(minimum: float, share: str) -> Spec:
    """Return a line across a chart, and what it says."""
    place = {"xref": "x domain", "yref": "y"}
    across = place | {"x0": 0, "x1": 1, "y0": 100 * minimum, "y1": 100 * minimum}
    said = place | {"x": 1, "xanchor": "right", "y": 100 * minimum, "yanchor": "bottom"}
    said |= {"text": f"min {share}", "font": {"color": FLOOR}, "showarrow": False}
    return {
        "shapes": [{"type": "line", "line": {"color": FLOOR, "dash": "dash"}, **across}],
        "annotations": [said],
    }


def _mark(low: float, high: float, minimum: float | None, held: bool) -> float:
    """Return the end of a range nearest to the bound, on the side that the trial was found on.

    Cells of older versions were decided by a test while the range still reached over the bound.
    """
    near, far = (low, high) if held else (high, low)
    over = minimum is not None and ((near < minimum - 1e-9) if held else (near >= minimum))
    return far if over else near
