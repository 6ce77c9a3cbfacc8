"""The command that writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headsweep.cli.app import app
from headsweep.cli.options import Quiet, check_file, one_of, out_console, progress_of
from headsweep.errors import UserError

FORMATS = ("html", "markdown", "latex")


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "headsweep report ./results --out report.html\n\n"
    "headsweep report ./results --format markdown > results.md\n\n"
    "headsweep report ./purified --out report.html"
)
def report(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Folder of a grid, or of one purification.")
    ],
    out: Annotated[Path | None, typer.Option(help="File to write; tables: else printed.")] = None,
    form: Annotated[str, typer.Option("--format", help="html, markdown or latex.")] = "html",
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    any_version: Annotated[
        bool, typer.Option("--any-version", help="Put cells of all versions together.")
    ] = False,
    resamples: Annotated[int, typer.Option(min=50, help="Of the bootstrap.")] = 2000,
    beside: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD", help="Compare with it over all victims (none, PURE or nothing)."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write what a grid of cells, or one purification, shows: a page, or tables."""
    one_of(form, FORMATS, "--format")
    if form == "html" and out is None:
        raise UserError("a page needs a file to go to", "--out report.html")
    if out is not None:
        check_file(out, overwrite)
    from headsweep.bench.results.reading import read_results
    from headsweep.drafts import MANIFEST
    from headsweep.export.verify import read_manifest
    from headsweep.reports import page, tables
    from headsweep.reports.comparison import compare
    from headsweep.reports.markdown import markdown

    if (results / MANIFEST).is_file():
        if form != "html":
            raise UserError("a single purification has a page only", "leave --format out")
        manifest = read_manifest(results)
        try:
            text = page.of_purification(manifest, title)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(
                f"{results / MANIFEST}: lacks what a page shows ({type(error).__name__}: {error})",
                "the manifest is damaged: get the folder from its source again",
            ) from error
    else:
        found = read_results(results, any_version)
        settings = compare(found, resamples, progress_of(quiet))
        if form == "markdown":
            text = markdown(found, settings, beside=beside)
        elif form == "latex":
            text = tables.latex(settings)
        else:
            text = page.of_results(
                found, settings, title or f"Benchmark: {_recipes(found)}", beside
            )
    if out is None:
        print(text, end="")
        return
    page.write(out, text)
    out_console.print(f"written: {out}", soft_wrap=True)


def _recipes(found: Any) -> str:
    return ", ".join(sorted({cell["recipe"]["name"] for cell in found.cells}))
