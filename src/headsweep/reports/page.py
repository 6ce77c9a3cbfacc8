"""The page: one HTML file with its charts, styles, figures and scripts inside."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from headsweep import __version__
from headsweep.bench.results.reading import Results
from headsweep.drafts import placed, write_bytes
from headsweep.errors import MissingExtra, UserError
from headsweep.export.probes import STAGES as PROBED
from headsweep.export.probes import probes_told
from headsweep.foreign import plain
from headsweep.model.mask import HeadMask, rows_by_kind
from headsweep.reports import charts, tables
from headsweep.reports.across import LEGEND, PAIRED, across, by_victim, summary
from headsweep.reports.comparison import Setting
from headsweep.reports.reproduce import command, hint
from headsweep.reports.verdict import NOTHING, verdict
from headsweep.texts.words import limit_of, share_of, words_of

Form = Mapping[str, Any]
MEASURES = {
    "ACC": "accuracy",
    "LFR": "lfr",
    "CFR": "cfr",
    "matched LFR": "matched_lfr",
    "excess LFR": "excess_lfr",
}
CROSSED = "A cross: pruned."
LOWEST = f"{CROSSED} What scored lowest went; the best of every layer stays."
BADGES = {
    "held": "bound held",
    "missed": "bound not held",
    "nothing": "nothing pruned",
    "free": "no bound",
    "void": "the bound protects nothing",
}
STAGES = {"before": "before", "pruned": "pruned", "after": "after"}


def of_results(
    results: Results, settings: Sequence[Setting], title: str, beside: str | None = None
) -> str:
    """Return the page of a grid; ``beside`` as for ``across``."""
    specs, shown = {}, []
    for number, setting in enumerate(settings):
        specs[f"scatter-{number}"] = charts.scatter(setting)
        specs[f"bars-{number}"] = charts.bars(setting)
        shown.append(
            {
                "number": number,
                "name": setting.name,
                "sentences": tables.sentences(setting),
                "rows": tables.rows(setting),
                "below": tables.below(setting),
            }
        )
    cells = {cell["id"]: of_cell(cell) for cell in results.cells}
    found = across(results.cells, beside)
    overall = [summary(found), by_victim(found)] if found is not None else []
    return _page(title, shown, specs, cells, results.notes, overall)


def of_purification(manifest: Form, title: str | None = None) -> str:
    """Return the page of one purification, from its manifest."""
    name = Path(manifest["suspect"]).name.strip(".")  # . and .. would be other folders here
    title = title or f"{name or 'A model'}, pruned by headsweep"
    parts = [part for part in ("validation", "test") if part in manifest["before"]]
    words = words_of(manifest)
    more = [(part, key, name) for key, name in words.figures.items() for part in parts]
    figures = {
        "columns": [
            *(f"{words.share}, {part}" for part in parts),
            *(f"{name}, {part}" for part, _, name in more),
        ],
        "rows": [
            [
                stage,
                *(_plain(share_of(manifest[stage][part])) for part in parts),
                *(f"{manifest[stage][part][key]:.3f}" for part, key, _ in more),
            ]
            for stage in STAGES
        ],
    }
    details = {
        "strategy": _method(manifest["strategy"]),
        "healing": _method(manifest["heal"]),
        "pruned": f"{len(manifest['pruned_units'])} of {manifest['units']}",
        "seed": str(manifest["seed"]),
        "checks": "; ".join(
            f"{check['what']}: {'ok' if check['passed'] else 'FAILED ' + check['detail']}"
            for check in manifest["checks"]
        ),
        "seconds": _seconds(manifest["seconds"]),
        "command": manifest["command"],
        "versions": _versions(manifest["environment"]),
    }
    search = manifest["search"]
    steps = [
        [s["action"], s["pruned"], s["accuracy_at_least"], s["accuracy_at_most"], s["held"]]
        for s in search["steps"]
    ]
    cell = _cell(
        manifest["mask"],
        search["scores"],
        steps,
        _searched_to(manifest["bound"]),
        figures,
        details,
        words.share,
    )
    notes = [
        "Nobody gave this tool the trigger, so it could not measure whether a backdoor was there "
        "or is gone. Pruning can fail: this page does not call the model clean.",
        *manifest["notes"],
    ]
    return _page(title, [], {}, {"this purification": cell}, notes, first=_first(manifest, parts))


def _first(manifest: Form, parts: Sequence[str]) -> dict[str, Any]:
    """Return what the page of a purification shows first: a status in words, and its tiles."""
    found, total, words = verdict(manifest), manifest["units"], words_of(manifest)
    gone, share = len(manifest["pruned_units"]), manifest["units"] or 1
    tiles = []
    for part in parts[:1]:
        before, after = (share_of(manifest[stage][part]) for stage in ("before", "after"))
        bound, told, lowest = manifest["bound"], "no bound held it", None
        binds = bound.get("binds", True)
        if binds:
            lowest = bound.get("while_pruning") if words.bounded else bound["min_accuracy"]
            told = "" if lowest is None else f"{_plain(lowest)}% was the least allowed"
            told += " while heads were chosen" * bool(words.bounded and told)
        tiles.append(
            Tile(words.share, f"{_plain(before)}% \u2192 {_plain(after)}%", told, 100 * after,
                 None if lowest is None else 100 * lowest)
        )  # fmt: skip
        for key, name in words.figures.items():
            own, got = (manifest[stage][part][key] for stage in ("before", "after"))
            limit = limit_of(manifest) if key == words.bounded and binds else None
            end = "most" if words.falls else "least"
            told = "" if limit is None else f"{limit:.3f} was the {end} allowed"
            tiles.append(Tile(name, f"{own:.3f} \u2192 {got:.3f}", told))
    units = HeadMask.from_json(manifest["mask"]).names
    tiles.append(Tile(f"{units} pruned", f"{gone} of {total}", "", 100 * gone / share))
    record = manifest.get("probe") or {}
    stages = [stage for stage in PROBED if stage in record]
    if stages:
        counts = " \u2192 ".join(f"{len(record[stage]['noticed'])}" for stage in stages)
        told = f"rows noticed, {' and '.join(stages)}; not noticed is not absent"
        tiles.append(Tile("probes", counts, told))
    badge = BADGES[found.kind]
    nothing = NOTHING * (found.kind == "missed" and found.told.startswith(NOTHING))
    said = found.told.removeprefix(nothing)
    if found.kind == "missed" and not said.startswith(badge):
        badge = "a check failed"
    told = nothing + said.removeprefix(badge).lstrip(":; ")
    probes = {"told": probes_told(manifest), "stages": stages, "rows": _probes(record, stages)}
    return {"kind": found.kind, "badge": badge, "told": told, "tiles": tiles, "probes": probes}


def _probes(record: Form, stages: Sequence[str]) -> list[list[str]]:
    """Return a row for each family and label: excess flips at each stage, those noticed first."""
    by_row: dict[tuple[str, str], dict[str, Form]] = {}
    for stage in stages:
        for one in record[stage]["findings"]:
            name = one["family"] if one["kind"] == "trigger" else f"({one['family']})"
            by_row.setdefault((name, one["label"]), {})[stage] = one
    order = sorted(by_row, key=lambda row: not any(r["noticed"] for r in by_row[row].values()))
    return [[*row, *(_excess(by_row[row].get(stage)) for stage in stages)] for row in order]


def _excess(found: Form | None) -> str:
    if found is None:
        return "-"
    points = f"{100 * found['excess']['value']:+.1f}"
    return f"{points}, noticed" if found["noticed"] else points


@dataclass(frozen=True)
class Tile:
    """A figure of the first screen: its bar is filled to ``share``, a mark stands at ``mark``."""

    title: str
    value: str
    told: str
    share: float | None = None
    mark: float | None = None


def _searched_to(bound: Form) -> float | None:
    """Return the min accuracy of the search; an older manifest had only one."""
    pruning: float | None = bound.get("while_pruning")
    return bound.get("min_accuracy") if pruning is None else pruning


def of_cell(cell: Form) -> dict[str, Any]:
    """Return what the page shows of a grid's cell."""
    stages = [stage for stage in STAGES if cell.get(stage)]
    figures = {
        "columns": list(MEASURES),
        "rows": [
            [stage, *(_rate(cell[stage][name]) for name in MEASURES.values())] for stage in stages
        ],
    }
    details = {
        "method": _method(cell["strategy"]) if cell["strategy"] else "no pruning",
        "healing": _method(cell["healing"]),
        "outcome": cell.get("outcome", cell["status"]),
        "pruned": _pruned(cell),
        "seed, threads": f"{cell['seed']}, {cell['threads']}",
        "seconds": f"{_seconds(cell['seconds'])}; of the processor {cell['cpu_seconds']:.1f}",
        "peak memory": f"{cell['peak_memory_mib']:.0f} MiB" if cell["peak_memory_mib"] else "-",
        "reproduce": ", ".join(
            filter(None, (command(cell["recipe"], cell["id"]), hint(cell["recipe"])))
        ),
        "commit, code": f"{cell['commit'] or 'not in a repository'}, {cell['code'][:12]}",
        "recipe": f"{cell['recipe']['name']}, SHA-256 {cell['recipe']['sha256'][:12]}",
        "versions": _versions(cell["environment"]),
    }
    return _cell(
        cell.get("mask"),
        cell.get("scores"),
        cell.get("path") or [],
        _searched_to(cell.get("bound") or {}),
        figures,
        details,
    )


def _pruned(cell: Form) -> str:
    return f"{cell['pruned_count']} of {cell.get('units', '?')}" if "pruned_count" in cell else "-"


def _cell(
    mask: Form | None,
    scores: Any,
    steps: Sequence[Sequence[Any]],
    minimum: float | None,
    figures: Form,
    details: Form,
    share: str = "accuracy",
) -> dict[str, Any]:
    drawn = mask is not None and max(map(len, next(iter(rows_by_kind(mask).values())))) <= 128
    assert mask is not None or not drawn
    return {
        "order": LOWEST if mask is not None and lowest_went(mask, scores) else CROSSED,
        "heads": charts.heads(mask, scores) if drawn and mask is not None else None,
        "path": charts.path(steps, minimum, share) if steps else None,
        "figures": figures,
        "details": details,
    }


def lowest_went(mask: Form, scores: Sequence[Sequence[float]] | None) -> bool:
    """Tell whether what a mask prunes scored lowest of all that may go: no row's best does."""
    rows = [row for own in rows_by_kind(mask).values() for row in own]
    if scores is None or [len(row) for row in scores] != [len(row) for row in rows]:
        return False
    gone, kept = [], []
    for keep, own in zip(rows, scores, strict=True):
        best = max(range(len(own)), key=lambda i: (own[i], i))
        gone += [score for score, stays in zip(own, keep, strict=True) if not stays]
        kept += [s for i, (s, k) in enumerate(zip(own, keep, strict=True)) if k and i != best]
    return bool(gone) and max(gone) <= min(kept, default=max(gone))


def _method(form: Form) -> str:
    told = ", ".join(f"{name} {value}" for name, value in form["fields"].items() if name != "order")
    return f"{form['name']} ({told})" if told else str(form["name"])


def _seconds(form: Form) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in form.items())


def _versions(form: Form) -> str:
    return ", ".join(f"{name} {value}" for name, value in form.items())


def _plain(value: float) -> str:
    return f"{100 * value:.1f}"


def _rate(form: Form | None) -> str:
    if form is None:
        return "-"
    return f"{100 * form['value']:.1f} ({100 * form['low']:.1f} to {100 * form['high']:.1f})"


def _page(
    title: str,
    settings: Sequence[Form],
    specs: Form,
    cells: Form,
    notes: Sequence[str],
    overall: Sequence[tuple[list[str], list[list[tables.Entry]]]] = (),
    first: Form | None = None,
) -> str:
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise MissingExtra("the report needs Jinja", "report", error) from error
    here = files("headsweep.reports")
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    shown = {"charts": specs, "cells": _all_shown(cells)}
    data = json.dumps(shown, allow_nan=False)
    return environment.from_string((here / "page.html").read_text(encoding="utf-8")).render(
        title=title,
        settings=settings,
        overall=overall,
        first=first,
        legend=f"{LEGEND} {PAIRED}",
        titles=tables.TITLES,
        how=tables.HOW,
        cells=list(cells),
        notes=notes,
        version=__version__,
        style=(here / "page.css").read_text(encoding="utf-8"),
        script=(here / "page.js").read_text(encoding="utf-8"),
        plotly=packed(charts.bundle()),
        data=packed(data),
    )


def packed(text: str) -> str:
    """Return a text compressed, in letters that may stand in a page; ``page.js`` unpacks it.

    A page is a quarter as large so, and one of a thousand cells a twentieth.
    """
    return b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _shown(value: Any) -> Any:
    """Return what the page shows of a value: text of others without what reorders or hides it."""
    return plain(value) if type(value) is str else value


def _all_shown(form: Any) -> Any:
    """Return JSON with every text in it as the page shows it."""
    if isinstance(form, Mapping):
        return {_shown(key): _all_shown(one) for key, one in form.items()}
    return [_all_shown(one) for one in form] if isinstance(form, list | tuple) else _shown(form)


def write(path: Path, text: str) -> None:
    """Write a report whole: to a draft, then renamed; raises UserError."""
    path = placed(path)
    try:
        write_bytes(path, text.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
