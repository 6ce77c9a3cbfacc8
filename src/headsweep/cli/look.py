"""Commands that only look: strategies, inspect, verify."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from headsweep.cli.app import app
from headsweep.cli.listing import all_methods, print_methods
from headsweep.cli.options import (
    AdapterFile,
    AsJson,
    Compute,
    Device,
    Model,
    out_console,
    print_json,
    runtime_of,
)


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
    from headsweep.model.families import read_adapter
    from headsweep.model.loading import Reading, claimed_units, claims, load_suspect
    from headsweep.model.removal import already_pruned

    reading = Reading(
        adapter=read_adapter(adapter) if adapter else None, units=claimed_units(model)
    )
    opened = load_suspect(model, runtime_of(device, compute), reading)
    layout, pruned = opened.anatomy.layout, already_pruned(opened.anatomy)
    rows = [
        {
            "layer": row.layer,
            "heads": row.units,
            "key_value_heads": row.units // row.group,
            "head_width": row.width,
            "pruned": [head for layer, head in pruned.pruned_heads if layer == row.layer],
        }
        for row in layout.rows
        if row.kind == "head"
    ]
    ffn = [{"layer": layer, "groups": len(kept), "pruned": [i for i, k in enumerate(kept) if not k]}
           for layer, kept in enumerate(pruned.ffn)]  # fmt: skip
    form = {
        "model": model,
        "architecture": type(opened.model).__name__,
        "model_type": opened.model.config.model_type,
        "parameters": sum(p.numel() for p in opened.model.parameters()),
        "precision": str(opened.precision).removeprefix("torch."),
        "labels": list(opened.labels.names),
        "heads": sum(len(row) for row in pruned.heads),
        "gates_checked": True,
        "notes": [*opened.notes, *claims(model)],
        "layers": rows,
        "ffn": ffn,
    }
    if as_json:
        print_json(form)
        return
    out_console.print(
        f"{form['architecture']}, {form['parameters'] / 1e6:.1f}M parameters, saved in "  # type: ignore[operator]
        f"{form['precision']}, labels {', '.join(opened.labels.names)}"
    )
    first = rows[0]
    groups = f"; {ffn[0]['groups']} FFN groups a layer, as pruned here" if ffn else ""
    out_console.print(
        f"{len(rows)} layers x {first['heads']} heads of width {first['head_width']}, "
        f"{first['key_value_heads']} key/value heads a layer; gates checked{groups}"
    )
    for note in form["notes"]:  # type: ignore[attr-defined]
        out_console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    out_console.print(picture(pruned), end="")


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
