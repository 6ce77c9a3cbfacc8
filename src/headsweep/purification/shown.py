"""A purification shown: in a line, as a small picture for notebooks, as a table of its units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headsweep.errors import MissingExtra, shortened
from headsweep.export.probes import probes_told
from headsweep.foreign import in_html, one_line
from headsweep.model.mask import SHORT, HeadMask
from headsweep.texts.words import Words, share_of, words_of

Form = Mapping[str, Any]
SIDE, STEP, LABEL = 11, 14, 64  # of the picture, in pixels: a unit, from one to the next, the names
WIDEST = 128  # units drawn in a row; wider rows are counted only
PARTS = ("validation", "test")


def in_a_line(manifest: Form, mask: HeadMask) -> str:
    """Return what was pruned, the figures before and after, and whether every check passed."""
    words = words_of(manifest)
    figures = [
        f"{part} {name} {_figure(manifest, 'before', part, key, words)} -> "
        f"{_figure(manifest, 'after', part, key, words)}"
        for part in PARTS
        if part in manifest["before"]
        for key, name in _first(words).items()
    ]
    told = ", ".join([_pruned(manifest, mask), *figures])
    return f"Purified({_name(manifest)}: {told}; {_verified(manifest)})"


def as_html(manifest: Form, mask: HeadMask) -> str:
    """Return a heading, the map of units and the figures, small enough for a notebook's cell."""
    parts = [part for part in PARTS if part in manifest["before"]]
    words = words_of(manifest)
    columns = [(part, key, name) for part in parts for key, name in _first(words).items()]
    heads = "".join(f"<th>{part} {name}</th>" for part, _, name in columns)
    rows = "".join(
        f"<tr><th>{title}</th>"
        + "".join(
            f"<td>{_figure(manifest, stage, part, key, words)}</td>" for part, key, _ in columns
        )
        + "</tr>"
        for stage, title in (("before", "before"), ("pruned", "pruned"), ("after", "healed"))
    )
    title = f"{_name(manifest)}: {_pruned(manifest, mask)}; {_verified(manifest)}"
    told = [f"probes {line}" for line in probes_told(manifest)] + list(manifest["notes"])
    notes = "".join(f"<li>{in_html(one_line(str(note)))}</li>" for note in told)
    return (
        f"<div><p><b>{in_html(title)}</b></p>{_map(mask)}"
        f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        + (f"<ul>{notes}</ul>" if notes else "")
        + "</div>"
    )


def _map(mask: HeadMask) -> str:
    """Return the units as an SVG: a filled square stays, an empty one was pruned."""
    rows = [(SHORT[kind], i, row) for kind, own in mask.kinds.items() for i, row in enumerate(own)]
    widest = max((len(row) for _, _, row in rows if len(row) <= WIDEST), default=0)
    width, height = LABEL + 96 + STEP * widest, STEP * len(rows) + 2
    lines = []
    for place, (kind, layer, row) in enumerate(rows):
        top = STEP * place + 1
        drawn = row if len(row) <= WIDEST else ()
        lines.append(f'<text x="0" y="{top + SIDE - 2}">{kind} {layer}</text>')
        lines += [
            f'<rect x="{LABEL + STEP * i}" y="{top}" width="{SIDE}" height="{SIDE}" '
            f'fill="{"currentColor" if keep else "none"}" stroke="currentColor"/>'
            for i, keep in enumerate(drawn)
        ]
        gone = f"{len(row) - sum(row)} of {len(row)} pruned"
        lines.append(f'<text x="{LABEL + STEP * len(drawn)}" y="{top + SIDE - 2}">{gone}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img" '
        'aria-label="filled: kept, empty: pruned" font-family="sans-serif" font-size="10" '
        f'fill="currentColor">{"".join(lines)}</svg>'
    )


def units_of(manifest: Form, mask: HeadMask) -> list[dict[str, Any]]:
    """Return a row for every unit: ``kind``, ``layer``, ``index``, ``kept``, ``score``.

    The kind is ``head``, ``group`` (of one key/value head with its query heads) or ``ffn``.
    Layers and units are counted from 0. The score is what the search ranked it by; None where it
    ranked nothing.
    """
    scores: Sequence[Sequence[float]] = manifest["search"]["scores"] or ()
    rows = []
    places = [(kind, layer) for kind, own in mask.kinds.items() for layer in range(len(own))]
    for place, ((kind, layer), row) in enumerate(zip(places, mask.rows, strict=True)):
        own = scores[place] if place < len(scores) else [None] * len(row)
        rows += [
            {"kind": kind, "layer": layer, "index": i, "kept": keep, "score": score}
            for i, (keep, score) in enumerate(zip(row, own, strict=True))
        ]
    return rows


def as_frame(rows: Sequence[Form]) -> Any:
    """Return rows as a pandas data frame; raises UserError where pandas is missing."""
    try:
        import pandas
    except ImportError as error:
        raise MissingExtra("a pandas DataFrame", "data", error) from error
    return pandas.DataFrame(list(rows))


def _name(manifest: Form) -> str:
    return shortened(one_line(Path(manifest["suspect"]).name)) or "a model"


def _pruned(manifest: Form, mask: HeadMask) -> str:
    count, names = len(manifest["pruned_units"]), mask.names
    strategy = one_line(str(manifest["strategy"]["name"]))
    return f"{count} of {manifest['units']} {names} pruned by {strategy}"


def _first(words: Words) -> dict[str, str]:
    """Return the share of right examples, and the figure that is bounded, by key."""
    return {words.key: words.share} | ({words.bounded: words.bounded_name} if words.bounded else {})


def _figure(manifest: Form, stage: str, part: str, key: str, words: Words) -> str:
    figures = manifest[stage][part]
    return f"{share_of(figures) if key == words.key else figures[key]:.3f}"


def _verified(manifest: Form) -> str:
    failed = [check["what"] for check in manifest["checks"] if not check["passed"]]
    return f"NOT VERIFIED: {one_line(failed[0])}" if failed else "verified"
