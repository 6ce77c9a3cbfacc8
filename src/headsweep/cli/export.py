"""The command that writes a model for a runtime."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from headsweep.cli.app import app
from headsweep.cli.options import (
    AdapterFile,
    AsJson,
    Column,
    Compute,
    LabelMap,
    MaxDrop,
    Model,
    OutFolder,
    Overwrite,
    Quiet,
    check_sources,
    out_console,
    print_json,
    progress_of,
)


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "headsweep export ./purified --out ./purified-onnx\n\n"
    "headsweep export ./purified --int8 --data clean.csv --out ./purified-onnx\n\n"
    "Exit codes: 0 done, 1 eight bits cost more accuracy than allowed, 2 a mistake in what was "
    "asked or a file that answers otherwise than the model; nothing is written but with 0."
)
def export(
    model: Model,
    out: OutFolder,
    format: Annotated[str, typer.Option(help="onnx.")] = "onnx",
    int8: Annotated[
        bool, typer.Option("--int8", help="Write it in eight bits too; needs --data.")
    ] = False,
    data: Annotated[
        str | None, typer.Option(help="Clean labelled data to measure the files on.")
    ] = None,
    max_drop: MaxDrop = None,
    adapter: AdapterFile = None,
    column: Column = None,
    label_map: LabelMap = None,
    compute: Compute = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a classifier as ONNX, checked by onnxruntime; in eight bits within a bound."""
    check_sources(data)
    from headsweep.verbs.exporting import export_onnx

    found = export_onnx(
        model,
        out,
        format=format,
        int8=int8,
        data=data,
        max_drop=max_drop,
        adapter=adapter,
        column=column,
        label_map=label_map,
        compute=compute,
        overwrite=overwrite,
        progress=progress_of(quiet or as_json),
    )
    if as_json:
        print_json({"folder": str(found.folder), **found.to_json()})
        return
    from headsweep.cli.show import percent

    table = Table("", "the model", *(file.name for file in found.files))
    table.add_row("MB", "", *(f"{file.size / 1e6:.1f}" for file in found.files))
    differ = [f"{file.difference:.2g}" for file in found.files]
    table.add_row("logits differ by", "", *differ)
    if found.before is not None:
        words = found.before.words
        judged = [got for got in (found.before, *(f.accuracy for f in found.files)) if got]
        table.add_row(words.share, *(percent(got.value) for got in judged))
        for key, name in words.figures.items():
            table.add_row(name, *(f"{got.beside[key]:.3f}" for got in judged))
    out_console.print(table)
    out_console.print(f"checked by onnxruntime; written: {found.folder}", soft_wrap=True)
