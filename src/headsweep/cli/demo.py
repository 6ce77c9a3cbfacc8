"""The command that shows the whole job on a small real model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headsweep.cli.app import app
from headsweep.cli.options import (
    AsJson,
    BatchSize,
    Device,
    MaxLength,
    Precision,
    Quiet,
    Seed,
    out_console,
    print_json,
    progress_of,
    runtime_of,
)


@app.command(epilog="[bold]Example[/bold]\n\nheadsweep demo --out ./demo-out")
def demo(
    out: Annotated[Path | None, typer.Option(help="Keep the models in this folder.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    batch_size: BatchSize = 32,
    max_length: MaxLength = 128,
    precision: Precision = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Plant a backdoor in a small real model, purify it, and show before and after."""
    from headsweep.demo import run
    from headsweep.demo import show as show_demo

    runtime = runtime_of(device, batch_size, max_length, precision)
    report = run(runtime, seed, progress_of(quiet or as_json), out, overwrite)
    if as_json:
        print_json(report.to_json())
    else:
        show_demo(out_console, report)
