"""Read a results folder: the cells of one version, their victims, and what was left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from headsweep.bench.results.store import Form, read_cell, read_json, read_victims, version_of
from headsweep.errors import UserError


@dataclass(frozen=True)
class Results:
    """What a report is made of.

    Attributes:
        cells: finished cells, sorted by name.
        victims: victims by name.
        left_out: cells of other versions, by version.
        unreadable: files that are no whole cell, or whose victim is missing.
        failed: cells that failed, with their error.
        mixed: True when cells of several versions stand together.

    """

    cells: tuple[Form, ...]
    victims: dict[str, Form]
    left_out: dict[str, int]
    unreadable: tuple[str, ...]
    failed: dict[str, str]
    mixed: bool = False

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
        return found + [f"{name} failed: {why}" for name, why in self.failed.items()]


def read_results(folder: Path, any_version: bool = False) -> Results:
    """Read the cells of a folder: of the version with most cells, or of all.

    Raises:
        UserError: there is no folder, or no cell in it.

    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", "give the --out of `headsweep bench`")
    cells: list[Form] = []
    unreadable: list[str] = []
    for path in sorted(folder.glob("*.json")):
        form = read_cell(path)
        cells.append(form) if form else unreadable.append(path.name)
    victims = read_victims(folder)
    whole = [c for c in cells if victims.get(c["victim"], {}).get("key") == c["victim_key"]]
    unreadable += [f"{c['id']}.json (without its victim)" for c in cells if c not in whole]
    if not whole:
        bad = f" that can be read (not {', '.join(unreadable[:3])})" if unreadable else ""
        raise UserError(
            f"{folder}: no results{bad}", "headsweep bench RECIPE --out FOLDER makes some"
        )
    versions = Counter(version_of(cell) for cell in whole)
    chosen = set(versions) if any_version else {versions.most_common(1)[0][0]}
    kept = tuple(cell for cell in whole if version_of(cell) in chosen)
    left = {version: count for version, count in versions.items() if version not in chosen}
    mixed = any_version and len(versions) > 1
    return Results(kept, victims, left, tuple(unreadable), _failed(folder), mixed)


def _failed(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted((folder / "failed").glob("*.json")):
        form = read_json(path) or {}
        found[path.stem] = str(form.get("error", "no reason was kept")).split("\n")[0]
    return found
