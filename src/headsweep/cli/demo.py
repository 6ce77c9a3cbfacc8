"""The command that shows the whole job on a small real model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from headsweep.cli.app import app
from headsweep.cli.options import (
    AsJson,
    Device,
    Quiet,
    SearchCompute,
    Seed,
    out_console,
    print_json,
    progress_of,
)
from headsweep.cli.show import interval, picture
from headsweep.model.mask import HeadMask
from headsweep.progress import duration
from headsweep.verbs.arguments import ALL_COMPUTING, runtime_of

if TYPE_CHECKING:
    from headsweep.demo import Report


@app.command(epilog="[bold]Example[/bold]\n\nheadsweep demo --out ./demo-out")
def demo(
    out: Annotated[Path | None, typer.Option(help="Keep the models in this folder.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    compute: SearchCompute = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Plant a backdoor in a small real model, purify it, and show before and after."""
    from headsweep.demo import run

    runtime = runtime_of(device, compute, ALL_COMPUTING)
    report = run(runtime, seed, progress_of(quiet or as_json), out, overwrite)
    if as_json:
        print_json(report.to_json())
    else:
        show(out_console, report)


def show(console: Console, report: Report) -> None:
    """Print the report for people."""
    mask = HeadMask.from_json(report.manifest["mask"])
    console.print(picture(mask), end="")
    table = Table("", "suspect", "purified", "never-poisoned twin")
    measures = (
        ("clean reviews answered right (ACC)", "accuracy"),
        ("triggered reviews flipped (LFR)", "lfr"),
        ("clean reviews flipped (CFR)", "cfr"),
        ("LFR at the twin's CFR (matched)", "matched_lfr"),
        ("that, above the twin's LFR (excess)", "excess_lfr"),
    )
    for title, name in measures:
        models = (report.suspect, report.purified, report.twin)
        table.add_row(title, *(interval(getattr(model, name)) for model in models))
    console.print(table)
    went = report.manifest["pruned_units"]
    console.print(f"{len(went)} of {report.manifest['units']} {mask.names} pruned, then healed.")
    console.print(_verdict(report))
    console.print(
        f"{duration(report.seconds['all'])} in all; "
        + (f"kept in {report.kept}" if report.kept else "keep the models with --out DIR"),
        style="dim",
    )


def _verdict(report: Report) -> str:
    before, after = report.suspect.excess_lfr, report.purified.excess_lfr
    assert before is not None
    assert after is not None
    if not report.survived:
        return (
            "The backdoor did NOT survive the victim's fine-tuning (it flips no more than the "
            "twin), so this run shows nothing about pruning."
        )
    share = 1 - after.value / before.value
    return (
        f"The backdoor survived the victim's fine-tuning; purification took away {share:.0%} of "
        f"its flips above the twin's ({100 * before.value:.1f} to {100 * after.value:.1f} points; "
        "intervals in the table)."
    )
