"""The command that cuts the pruned units out of a purified model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headsweep.cli.app import app
from headsweep.cli.options import AsJson, out_console, print_json


@app.command(epilog="[bold]Example[/bold]\n\nheadsweep compact ./purified --out ./compact")
def compact(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder `purify` wrote.")],
    out: Annotated[Path, typer.Option(help="Write the smaller model to this folder.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Cut pruned heads and neurons out of a purified model: the same answers, smaller."""
    from headsweep.verbs.compacting import compact as run

    made = run(folder, out, overwrite=overwrite)
    if as_json:
        print_json(made.to_json())
        return
    share = 100 * made.parameters / made.parameters_before
    out_console.print(
        f"{made.parameters:,} of {made.parameters_before:,} parameters are left ({share:.1f}%), in "
        f"{made.bytes / 1e6:.2f} MB for {made.bytes_before / 1e6:.2f} MB; the logits are the same "
        f"to {made.logit_gap:.0e}",
        highlight=False,
        soft_wrap=True,
    )
    how = (
        "loads in plain from_pretrained"
        if made.plain
        else "its layers keep other numbers of units than a configuration can say: load it with "
        "headsweep.load(DIR)"
    )
    out_console.print(f"{made.folder}: {how}", highlight=False, markup=False, soft_wrap=True)
