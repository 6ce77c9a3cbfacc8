"""Commands that only look: strategies, inspect, verify."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from headsweep.cli.app import app
from headsweep.cli.listing import print_methods
from headsweep.cli.options import (
    AdapterFile,
    AsJson,
    Compute,
    Device,
    Model,
    out_console,
    print_json,
)
from headsweep.verbs.methods import all_methods


@app.command(epilog="[bold]Example[/bold]\n\nheadsweep strategies --json")
def strategies(as_json: AsJson = False) -> None:
    """List strategies, baselines, controls, attacks, detectors: source, fields and defaults."""
    print_methods(all_methods(), as_json)


@app.command(epilog="[bold]Example[/bold]\n\nheadsweep inspect ./suspect")
def inspect(
    model: Model,
    adapter: AdapterFile = None,
    device: Device = "auto",
    compute: Compute = None,
    as_json: AsJson = False,
) -> None:
    """Show layers, heads, key/value groups and what is pruned already; check that gates work."""
    from headsweep.cli.show import picture
    from headsweep.verbs.looking import inspect as run

    found = run(model, adapter=adapter, device=device, compute=compute)
    if as_json:
        print_json(found.to_json())
        return
    out_console.print(
        f"{found.architecture}, {found.parameters / 1e6:.1f}M parameters, saved in "
        f"{found.precision}, labels {', '.join(found.labels) or 'none: it generates'}"
    )
    first = found.layers[0]
    ffn = found.mask.ffn
    groups = f"; {len(ffn[0])} FFN groups a layer, as pruned here" if ffn else ""
    out_console.print(
        f"{len(found.layers)} layers x {first.heads} heads of width {first.head_width}, "
        f"{first.key_value_heads} key/value heads a layer; gates checked{groups}"
    )
    for note in found.notes:
        out_console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    out_console.print(picture(found.mask), end="")


@app.command(epilog="[bold]Example[/bold]\n\nheadsweep verify ./purified")
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder `purify` wrote.")],
    as_json: AsJson = False,
) -> None:
    """Check the weights of a purified folder against its manifest."""
    from headsweep.export.verify import verify as run

    found = run(folder)
    if as_json:
        print_json([dataclasses.asdict(check) for check in found])
    else:
        from headsweep.cli import show

        show.checks(out_console, found)
    if not all(check.passed for check in found):
        raise typer.Exit(1)
