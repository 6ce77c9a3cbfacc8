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
from headsweep.errors import UserError
from headsweep.verbs.arguments import check_file, one_of, refuse_unused

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
    form: Annotated[str, typer.Option("--format", help="html, markdown, latex or svg.")] = "html",
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
    one_of(form, FORMATS, "--format")
    if form == "html" and out is None:
        raise UserError("a page needs a file to go to", "--out report.html")
    if out is not None:
        check_file(out, overwrite)
        if out.suffix.lower() in (".pdf", ".png", ".docx"):
            raise UserError(
                f"{out}: {form} is no {out.suffix}", f"name it {out.with_suffix('.' + form).name}"
            )
    unused = {"--title": title and form != "html", "--beside": beside and form == "latex"}
    refuse_unused(unused, f"{{}}: nothing in {form} shows it")
    from headsweep.verbs.reporting import report as run

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
