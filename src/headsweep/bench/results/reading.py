"""Read a results folder: the cells of one version, their victims, and what was left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headsweep.bench.results.store import Form, read_cell, read_json, read_victims, version_of
from headsweep.errors import UserError, shown_all


@dataclass(frozen=True)
class Results:
    """What a report is made of.

    Attributes:
        cells: finished cells, sorted by name.
        victims: victims by name.
        left_out: cells of other versions, by version.
        unreadable: files that are no whole cell.
        apart: cells without their victim, and where it is.
        failed: cells that failed, with their error.
        mixed: True when cells of several versions stand together.

    """

    cells: tuple[Form, ...]
    victims: dict[str, Form]
    left_out: dict[str, int]
    unreadable: tuple[str, ...]
    failed: dict[str, str]
    mixed: bool = False
    apart: Mapping[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the choice of cells."""
        found = [
            f"{count} cells of another version ({version}) are left out"
            for version, count in self.left_out.items()
        ]
        if self.mixed:
            found.append("cells of several versions stand together here")
        if any(str(cell["commit"]).endswith("-dirty") for cell in self.cells):
            found.append("some cells come from a tree with changes: no commit reproduces them")
        found += [f"{name} could not be read and is left out" for name in self.unreadable]
        found += [f"{name} is left out: {why}" for name, why in self.apart.items()]
        found += unlike(self.cells)
        return found + [f"{name} failed: {why}" for name, why in self.failed.items()]


def files_of(folder: Path) -> tuple[Path, ...]:
    """Return the files of a folder that ``read_results`` looks at."""
    kept = ("*.json", "victims/*.json", "failed/*.json")
    return tuple(path for pattern in kept for path in folder.glob(pattern))


def read_results(folder: Path, any_version: bool = False) -> Results:
    """Read the cells of a folder: of the version with most cells, or of all.

    Raises:
        UserError: there is no folder, or no cell in it.

    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: {'a file, not a folder' if folder.is_file() else 'no such folder'}",
            "give the --out of `headsweep bench`, or of `headsweep purify`",
        )
    cells: list[Form] = []
    unreadable: list[str] = []
    copies: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        form = read_cell(path)
        if form is not None and form["id"] != path.stem:
            copies[path.name] = f"it is the cell {form['id']} under another name"
        else:
            cells.append(form) if form else unreadable.append(path.name)
    victims = read_victims(folder)
    whole = [c for c in cells if victims.get(c["victim"], {}).get("key") == c["victim_key"]]
    apart = {
        f"{cell['id']}.json": "it was judged on another victim than the one that is in victims/"
        if cell["victim"] in victims
        else "its victim is not in victims/, or could not be read"
        for cell in cells
        if cell not in whole
    } | copies
    if not whole:
        out = [*unreadable, *(f"{name}: {why}" for name, why in apart.items())]
        bad = f" that can be read ({'; '.join(out[:3])})" if out else ""
        raise UserError(
            f"{folder}: no results{bad}",
            "give the --out of `headsweep bench`, or a folder that `headsweep purify` wrote",
        )
    versions = Counter(version_of(cell) for cell in whole)
    chosen = set(versions) if any_version else {versions.most_common(1)[0][0]}
    kept = tuple(cell for cell in whole if version_of(cell) in chosen)
    left = {version: count for version, count in versions.items() if version not in chosen}
    mixed = any_version and len(versions) > 1
    return Results(kept, victims, left, tuple(unreadable), _failed(folder), mixed, apart)


def unlike(cells: Sequence[Form]) -> list[str]:
    """Return in words which methods were not asked for alike on all seeds, or all victims.

    A recipe that was changed between two runs leaves such cells side by side.
    """
    victims: dict[tuple[str, ...], list[Form]] = {}
    models: dict[tuple[str, ...], list[Form]] = {}
    for cell in cells:
        place = tuple(str(cell[name]) for name in ("model", "data", "attack", "method"))
        victims.setdefault(place, []).append(cell)
        models.setdefault((place[0], place[-1]), []).append(cell)
    found, told = [], set()
    for (model, _, attack, method), group in victims.items():
        if sets := _sets(group, "seed"):
            told.add((model, method))
            found.append(
                f"{method} of {attack} was not asked for alike on seeds {sets}: its mean is of no "
                "one method"
            )
    return found + [
        f"{method} was not asked for alike on {sets}: its mean over victims is of no one method"
        for (model, method), group in models.items()
        if (model, method) not in told and (sets := _sets(group, "attack"))
    ]


def _sets(group: Sequence[Form], name: str) -> str:
    """Return in words the sets of cells that were asked for alike; empty: there is only one."""
    asked = [_asked(cell) for cell in group]
    common = set.intersection(*map(set, asked))  # older code had fewer settings
    kinds = [json.dumps({key: one[key] for key in sorted(common)}) for one in asked]
    sets: dict[str, dict[str, None]] = {}
    for cell, kind in zip(group, kinds, strict=True):
        sets.setdefault(kind, {})[str(cell[name])] = None
    return " and ".join(map(shown_all, sets.values())) if len(sets) > 1 else ""


def _asked(cell: Form) -> dict[str, Any]:
    """Return the settings that a cell's record holds, but how many heads, which may be another's.

    A bound given as an accuracy is the same for all; one given as a drop is not.
    """
    names = ("base", "kind", "match", "units")
    found: dict[str, Any] = {name: cell[name] for name in names if cell.get(name) is not None}
    for name in ("strategy", "healing"):
        chosen = cell.get(name) or {"fields": {}}
        found |= {f"{name}.{key}": value for key, value in chosen["fields"].items()}
    bound = cell.get("bound") or {}
    given = "min_accuracy" if bound.get("max_drop") is None else "max_drop"
    if bound:  # none where nothing was pruned
        found["bound"] = bound.get(given)
    return {key: one for key, one in found.items() if key != "strategy.count"}


def _failed(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted((folder / "failed").glob("*.json")):
        form = read_json(path) or {}
        found[path.stem] = str(form.get("error", "no reason was kept")).split("\n")[0]
    return found
