"""A purification as one picture: the heads that went, and before and after, as SVG.

For a page that has a second to be looked at. Drawn in plain SVG, without scripts or fonts of its
own, light or dark as the reader's screen is, from the JSON that ``headsweep demo`` writes. Every
number in it comes from that file. Colours are those of Okabe and Ito (2008), as in the charts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headsweep.foreign import in_html

Form = Mapping[str, Any]
MODELS = (("suspect", "before"), ("purified", "after"), ("twin", "never poisoned"))
MEASURES = (
    ("lfr", "Triggered texts answered as the attacker wants"),
    ("accuracy", "Clean texts answered right"),
)
CELL, TOP, MAP, LEFT, BAR = 24, 62, 64, 560, 250


STYLE = """<style>
svg { --paper: #ffffff; --ink: #1a1a1a; --soft: #595959; --line: #d0d0d0; --kept: #0072b2;
  --a: #d55e00; --b: #0072b2; --c: #999999; }
@media (prefers-color-scheme: dark) { svg { --paper: #0d1117; --ink: #ececec; --soft: #b3b3b3;
  --line: #43484f; --kept: #56b4e9; --a: #e69f00; --b: #56b4e9; --c: #8b8b8b; } }
text { fill: var(--ink) } .soft { fill: var(--soft) } .paper { fill: var(--paper) }
.kept { fill: var(--kept) } .gone { fill: none; stroke: var(--line) }
.line { fill: none; stroke: var(--ink) } .thin { fill: none; stroke: var(--line) }
.a { fill: var(--a) } .b { fill: var(--b) } .c { fill: var(--c) }
</style>"""
BARS = "abc"  # the classes of the models' bars


def opened(width: float, height: float, told: str) -> list[str]:
    """Return how a picture begins: its size, what it shows in words, its colours and its paper."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="system-ui, -apple-system, sans-serif" '
        'font-size="14">',
        f"<title>{in_html(told)}</title>",
        STYLE,
        f'<rect class="paper" width="{width}" height="{height}" rx="8"/>',
    ]


def picture(form: Form) -> str:
    """Return the picture of a demo's report, as an SVG file."""
    heads: Sequence[Sequence[int]] = form["manifest"]["mask"]["heads"]
    width = max(LEFT + BAR + 160, MAP + CELL * max(map(len, heads)) + 20)
    height = max(TOP + CELL * len(heads) + 40, 318)
    lines = [*opened(width, height, told(form)), *_heads(heads), *_bars(form), "</svg>"]
    return "\n".join(lines) + "\n"


def told(form: Form) -> str:
    """Return what the picture shows, in words."""
    heads = form["manifest"]["mask"]["heads"]
    parts = [
        f"{title}: {', '.join(f'{name} {percent(form[model][key])}' for model, name in MODELS)}"
        for key, title in MEASURES
    ]
    return f"{_gone(heads)} of {sum(map(len, heads))} heads pruned. {'. '.join(parts)}."


def percent(rate: Form) -> str:
    """Return a rate as the picture writes it."""
    return f"{100 * rate['value']:.1f}%"


def _gone(heads: Sequence[Sequence[int]]) -> int:
    return sum(1 - keep for row in heads for keep in row)


def _heads(heads: Sequence[Sequence[int]]) -> Iterator[str]:
    """Yield a square for every head, hollow where it was pruned."""
    title = f"{_gone(heads)} of {sum(map(len, heads))} attention heads pruned"
    yield f'<text x="16" y="32" font-size="16" font-weight="600">{title}</text>'
    for layer, row in enumerate(heads):
        y = TOP + CELL * layer
        yield f'<text x="16" y="{y + 14}" font-size="12" class="soft">layer {layer}</text>'
        for head, keep in enumerate(row):
            x = MAP + CELL * head
            look = "kept" if keep else "gone"
            yield (
                f'<rect class="{look}" x="{x + 0.5}" y="{y + 0.5}" width="18" height="18" rx="3"/>'
            )
    y = TOP + CELL * len(heads) + 24
    yield f'<rect x="{MAP}" y="{y - 12}" width="14" height="14" rx="3" class="kept"/>'
    yield f'<text x="{MAP + 20}" y="{y}" font-size="12" class="soft">kept</text>'
    yield (f'<rect x="{MAP + 70}" y="{y - 11.5}" width="13" height="13" rx="3" class="gone"/>')
    yield f'<text x="{MAP + 90}" y="{y}" font-size="12" class="soft">pruned</text>'


def _bars(form: Form) -> Iterator[str]:
    """Yield both measures, a bar for each model with its 95% interval."""
    y = 32
    for key, title in MEASURES:
        yield f'<text x="{LEFT - 110}" y="{y}" font-size="16" font-weight="600">{title}</text>'
        for (model, name), colour in zip(MODELS, BARS, strict=True):
            y += 30
            rate = form[model][key]
            value, low, high = (LEFT + BAR * rate[part] for part in ("value", "low", "high"))
            yield (
                f'<text x="{LEFT - 10}" y="{y + 5}" text-anchor="end" class="soft">{name}</text>'
            )
            yield (
                f'<rect x="{LEFT}" y="{y - 9}" width="{value - LEFT:.1f}" height="18" rx="3" '
                f'class="{colour}"/>'
            )
            yield (
                f'<path d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 4}v8M{high:.1f} {y - 4}v8" '
                'class="line"/>'
            )
            yield f'<text x="{high + 8:.1f}" y="{y + 5}" font-weight="600">{percent(rate)}</text>'
        y += 48
    yield (
        f'<text x="{LEFT - 110}" y="{y - 14}" font-size="12" class="soft">'
        "whiskers: 95% intervals</text>"
    )
