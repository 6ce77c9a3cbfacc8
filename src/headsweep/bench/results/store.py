"""The results folder: one JSON file a cell, written whole; nothing in it is ever lost.

RESULTS/CELL.json          a finished cell
RESULTS/victims/ID.json    a victim with its twin: figures, and answers to compare by
RESULTS/failed/CELL.json   what stopped a cell; tried again on the next run
RESULTS/apart/VERSION/     cells of other code or of another recipe, and their victims
RESULTS/aside/             files that could not be read
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headsweep.bench.identity import code_hash
from headsweep.bench.orders import CellOrder
from headsweep.bench.results.shapes import CELL, VICTIM, fits
from headsweep.bounded import LARGE, table_of
from headsweep.drafts import write_json
from headsweep.errors import UserError

Form = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What was in the folder: finished cells by name, and what was moved out of the way."""

    finished: dict[str, Form]
    apart: dict[str, int]  # version: how many cells
    aside: tuple[str, ...]


class Store:
    """A results folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def look(self, cells: Iterable[CellOrder], any_version: bool = False) -> Found:
        """Return the finished ones of these cells; say which files are not, and move nothing."""
        finished: dict[str, Form] = {}
        apart: dict[str, int] = {}
        aside = []
        for cell in cells:
            path = self.folder / f"{cell.id}.json"
            if not path.exists():
                continue
            form = read_cell(path)
            if form is None:
                aside.append(cell.id)
            elif any_version or _same(form, cell):
                finished[cell.id] = form
            else:
                apart[version_of(form)] = apart.get(version_of(form), 0) + 1
        return Found(finished, apart, tuple(aside))

    def clear_way(self, cell: CellOrder) -> None:
        """Move what stands at a cell's place to where it is kept."""
        path = self.folder / f"{cell.id}.json"
        if not path.exists():
            return
        form = read_cell(path)
        kept = "aside" if form is None else f"apart/{version_of(form)}"
        target = self.folder / kept / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{path.stem}.{number}.json")
        path.rename(target)

    def finish(self, cell: CellOrder, record: Form) -> None:
        """Write a finished cell."""
        self.clear_way(cell)
        self._write(self.folder / f"{cell.id}.json", record)
        (self.folder / "failed" / f"{cell.id}.json").unlink(missing_ok=True)

    def fail(self, cell: CellOrder, why: Form) -> None:
        """Write what stopped a cell."""
        self._write(self.folder / "failed" / f"{cell.id}.json", why)

    def victim(self, name: str, record: Form) -> None:
        """Write a victim's figures and answers.

        Where another of that name stands, it is kept beside the cells that were judged by it.
        """
        path = self.folder / "victims" / f"{name}.json"
        old = read_json(path)
        if old is not None and old.get("key") != record["key"]:
            cells = (read_cell(cell) for cell in self.folder.glob("*.json"))
            theirs = [c for c in cells if c is not None and c["victim_key"] == old.get("key")]
            for version in {version_of(cell) for cell in theirs}:
                self._write(self.folder / "apart" / version / "victims" / path.name, old)
        self._write(path, record)

    def _write(self, path: Path, form: Form) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, form)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise UserError(
                f"{path}: {'the disk is full' if full else f'cannot be written: {error.strerror}'}",
                "make room and give the same command again: finished cells are skipped"
                if full
                else "",
            ) from error


def read_json(path: Path) -> Form | None:
    """Return what a JSON file holds; None where it is no object."""
    try:
        return table_of(path, LARGE)
    except UserError:
        return None


def read_cell(path: Path) -> Form | None:
    """Return a cell; None where the file is not a whole one."""
    form = read_json(path)
    return form if fits(form, CELL) else None


def read_victims(folder: Path) -> dict[str, Form]:
    """Return the whole victims of a results folder, by name."""
    forms = (read_json(path) for path in sorted((folder / "victims").glob("*.json")))
    return {form["id"]: form for form in forms if form is not None and fits(form, VICTIM)}


def version_of(form: Form) -> str:
    """Return what keeps a cell from others: the hash of the code that made it."""
    return str(form["code"])[:12]


def version_now() -> str:
    """Return the version that cells of this run get."""
    return code_hash()[:12]


def _same(form: Form, cell: CellOrder) -> bool:
    return form["key"] == cell.key and version_of(form) == version_now()
