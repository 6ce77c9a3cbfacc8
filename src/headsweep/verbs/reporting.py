"""``report``: what a grid of cells, or one purification, shows, as a page or as tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headsweep.bench.results.reading import Results, files_of, read_results
from headsweep.drafts import MANIFEST
from headsweep.errors import UserError
from headsweep.export.verify import read_manifest
from headsweep.progress import Progress, reporting
from headsweep.purification.purified import Purified
from headsweep.reports import page, tables
from headsweep.reports.across import across
from headsweep.reports.comparison import compare
from headsweep.reports.markdown import markdown
from headsweep.reports.victims_picture import picture_of
from headsweep.settings import fitting
from headsweep.verbs.arguments import check_file, one_of

FORMATS = ("html", "markdown", "latex", "svg")
ENDINGS = {".html": "html", ".htm": "html", ".md": "markdown", ".markdown": "markdown",
           ".tex": "latex", ".latex": "latex", ".svg": "svg"}  # fmt: skip
FEWEST = 50  # resamples


def report(
    results: str | Path | Purified,
    out: str | Path | None = None,
    *,
    format: str | None = None,
    title: str | None = None,
    any_version: bool = False,
    resamples: int = 2000,
    beside: str | None = None,
    overwrite: bool = False,
    progress: bool | Progress | None = True,
) -> str | Path:
    """Return what a grid of cells, or one purification, shows, or the file that it was written to.

    Args:
        results: the folder of a grid's results, a folder that ``purify`` wrote, or what it gave.
        out: the file to write, which is then returned; None: none, the text is returned.
        format: ``html``, a page that opens offline (needs ``headsweep[report]``); ``markdown`` or
            ``latex``, the tables of a grid; ``svg``, all victims of a grid as one picture. None:
            as the file is called, else ``html``.
        title: of the page.
        any_version: put cells of all versions together.
        resamples: of the bootstrap.
        beside: compare with this method over all victims.
        overwrite: replace ``out``.
        progress: True: shown, on a terminal or in a notebook; False: not; or an object.

    Raises:
        UserError: no results, a file that is there already, or an extra that is missing.

    """
    file = None if out is None else Path(fitting(out, Path, "out"))
    form = format_of(format, file)
    if fitting(resamples, int, "resamples") < FEWEST:
        raise UserError(f"resamples={resamples}: too few", f"{FEWEST} or more")
    beside = fitting(beside, str | None, "beside")
    read = (
        () if isinstance(results, Purified) else files_of(Path(fitting(results, Path, "results")))
    )
    if file is not None:
        check_file(file, overwrite, read)
    if isinstance(results, Purified):
        text = _of_one(results.manifest, form, title, "the manifest")
    elif ((folder := Path(fitting(results, Path, "results"))) / MANIFEST).is_file():
        manifest = read_manifest(folder)
        text = _of_one(manifest, form, title, str(folder / MANIFEST))
    else:
        found = read_results(folder, any_version)
        if form in ("svg", "latex"):  # which have no place to show them
            for note in found.notes:
                reporting(progress).say(f"note: {note}")
        if form == "svg":
            text = picture_of(across(found.cells, beside), found.notes)
        else:
            settings = compare(found, resamples, reporting(progress))
            if form == "markdown":
                text = markdown(found, settings, beside=beside)
            elif form == "latex":
                text = tables.latex(settings, found.notes)
            else:
                name = title or f"Benchmark: {_recipes(found)}"
                text = page.of_results(found, settings, name, beside)
    if file is None:
        return text
    check_file(file, overwrite, read)  # others may have been at work meanwhile
    page.write(file, text)
    return file


def format_of(asked: str | None, file: Path | None) -> str:
    """Return the format that was asked for, or that a file's name says; raises UserError."""
    ending = "" if file is None else file.suffix.lower()
    form: str = one_of(asked or ENDINGS.get(ending, "html"), FORMATS, "--format")
    if ending in (".pdf", ".png", ".docx") or ENDINGS.get(ending, form) != form:
        usual = next(name for name, kind in ENDINGS.items() if kind == form)
        assert file is not None
        raise UserError(
            f"{file}: {form} is no {ending}",
            f"name it {file.with_suffix(usual).name}"
            + (f", or --format {ENDINGS[ending]}" if ending in ENDINGS else ""),
        )
    return form


def _of_one(manifest: Mapping[str, Any], form: str, title: str | None, where: str) -> str:
    if form != "html":
        raise UserError(
            "a single purification has a page only", "leave --format out, and call it FILE.html"
        )
    try:
        return page.of_purification(manifest, title)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise UserError(
            f"{where}: lacks what a page shows ({type(error).__name__}: {error})",
            "the manifest is damaged: get the folder from its source again",
        ) from error


def _recipes(found: Results) -> str:
    return ", ".join(sorted({cell["recipe"]["name"] for cell in found.cells}))
