"""The command that writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headsweep.cli.app import app
from headsweep.cli.options import (
    Quiet,
    out_console,
    progress_of,
)
from headsweep.drafts import MANIFEST
from headsweep.errors import UserError
from headsweep.verbs.arguments import check_file, refuse_unused

FORMATS = ("html", "markdown", "latex", "svg")


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
    out: Annotated[
        Path | None, typer.Option(help="File to write; needed for a page, else optional.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="html, markdown, latex or svg; else as --out is called, or html.",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    any_version: Annotated[
        bool, typer.Option("--any-version", help="Put cells of all versions together.")
    ] = False,
    resamples: Annotated[int, typer.Option(min=50, help="Bootstrap resamples.")] = 2000,
    beside: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD", help="Compare all methods with it; else with none, pure or nothing."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write what a grid of cells, or one purification, shows: a page, tables or a picture."""
    if out is not None:
        check_file(out, overwrite)
    from headsweep.verbs.reporting import format_of
    from headsweep.verbs.reporting import report as run

    form = format_of(form, out)
    if form == "html" and out is None:
        raise UserError("a page needs a file to go to", "--out report.html")
    asked = {"--beside": beside, "--resamples": resamples != 2000, "--any-version": any_version}
    if (results / MANIFEST).is_file():
        refuse_unused(asked, "{}: this is one purification, and no grid")
    unused = {"--title": title and form != "html", "--beside": beside and form in ("latex", "svg"),
              "--resamples": asked["--resamples"] and form == "svg"}  # fmt: skip
    refuse_unused(unused, f"{{}}: nothing in {form} shows it")
    shown = run(
        results,
        out,
        format=form,
        title=title,
        any_version=any_version,
        resamples=resamples,
        beside=beside,
        overwrite=overwrite,
        progress=progress_of(quiet),
    )
    if out is None:
        print(shown, end="")
        return
    out_console.print(f"written: {out}", soft_wrap=True)
