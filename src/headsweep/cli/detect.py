"""The command that measures a detector of triggered texts."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from headsweep.cli.app import app
from headsweep.cli.options import (
    AdapterFile,
    AsJson,
    BaseModel,
    Column,
    Compute,
    Device,
    Fraction,
    LabelMap,
    Model,
    Quiet,
    Seed,
    TriggeredColumn,
    check_sources,
    out_console,
    print_json,
    progress_of,
)
from headsweep.foreign import one_line
from headsweep.verbs.arguments import (
    columns_of,
    one_of,
    refuse_unused,
    runtime_of,
    triggered_columns_of,
)
from headsweep.verbs.methods import method_named

SHOWN = 5  # rejected clean texts in the table for people


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "headsweep detect ./suspect --with strip --data test.tsv --validation dev.tsv\n\n"
    "headsweep detect ./suspect --with onion --set lm=gpt2 --data test.tsv --validation dev.tsv "
    "--triggered triggered.tsv --target positive --triggered-labels true --json"
)
def detect(
    model: Model,
    detector: Annotated[str, typer.Option("--with", help="See `headsweep strategies`.")],
    data: Annotated[str, typer.Option(help="Clean labelled texts to judge on.")],
    triggered: Annotated[str | None, typer.Option(help="Triggered test texts.")] = None,
    target: Annotated[
        str | None,
        typer.Option(help="The attacker's label: only texts predicted as it are judged."),
    ] = None,
    triggered_labels: Annotated[
        str,
        typer.Option(
            help="true: the triggered rows carry true labels (rows of the target are left out); "
            "target: they carry the attacker's label, and all count."
        ),
    ] = "true",
    validation: Annotated[
        str | None,
        typer.Option(help="Clean texts that the threshold is chosen on; else half of --data."),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Texts scored of each file; 0: all.")] = 150,
    frr: Annotated[
        float, Fraction("--frr", help="Share of clean texts that may be rejected.")
    ] = 0.05,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Detector field.")
    ] = None,
    base_model: BaseModel = None,
    adapter: AdapterFile = None,
    column: Column = None,
    label_map: LabelMap = None,
    triggered_column: TriggeredColumn = None,
    seed: Seed = 0,
    device: Device = "auto",
    compute: Compute = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure a detector of triggered texts: what it rejects wrongly, what it misses, AUROC."""
    check_sources(data, triggered, validation)
    from headsweep.export.provenance import command_line, environment
    from headsweep.judge.detection import Watched
    from headsweep.judge.detection import detect as run
    from headsweep.judge.detectors import DETECTORS
    from headsweep.model.families import read_adapter
    from headsweep.settings import configure

    meaning = one_of(triggered_labels, ("true", "target"), "--triggered-labels")
    asked = {"--triggered-labels": meaning == "target" and triggered is None}
    refuse_unused(asked, "{} says what triggered texts carry, and there are none")
    chosen = configure(method_named(detector, DETECTORS, "detector"), settings or [])
    files = Watched(
        data,
        triggered,
        target,
        meaning,
        validation,
        columns_of(column, label_map),
        limit,
        frr,
        triggered_columns_of(triggered, triggered_column),
    )
    runtime = runtime_of(device, compute)
    described = read_adapter(adapter) if adapter else None
    shown_to = progress_of(quiet or as_json)
    found = run(model, chosen, files, runtime, seed, shown_to, described, base_model)
    if as_json:
        form = dataclasses.asdict(found) | {
            "format": "headsweep.judge.detection/1",
            "detector": {"name": chosen.name, "fields": dataclasses.asdict(chosen)},
            "asked": dataclasses.asdict(files),
            "model": model,
            "base_model": base_model,
            "seed": seed,
            "command": command_line(),
            "environment": environment(),
        }
        print_json(form)
        return
    from headsweep.cli.show import interval
    from headsweep.progress import duration

    table = Table("measure", "value (95% interval)", "what it is")
    table.add_row("FRR", interval(found.frr), f"clean texts rejected (judged: {found.judged})")
    rows = [
        ("FAR", found.far, "triggered texts predicted as the target and accepted"),
        ("AUROC", found.auroc, "50% is a coin, below it triggered texts look less suspicious"),
        ("LFR", found.lfr, "triggered texts predicted as the target"),
        ("LFR left", found.lfr_left, "of them all, predicted as the target and accepted"),
    ]
    if found.cleaned is not None:
        rows += [
            ("ACC", found.cleaned.accuracy_before, "accuracy on the clean texts"),
            ("ACC, words out", found.cleaned.accuracy, "with suspected words taken out"),
            ("LFR, words out", found.cleaned.lfr, "with suspected words taken out"),
            ("texts changed", found.cleaned.texts_changed, "clean texts that lost a word"),
        ]
    for name, rate, what in rows:
        if rate is not None:
            table.add_row(name, interval(rate), what)
    out_console.print(table)
    for row in found.rejected[:SHOWN]:
        told = f"rejected ({one_line(row.predicted)}, {row.suspicion:.2f}): {one_line(row.text)}"
        out_console.print(told)
    if len(found.rejected) > SHOWN:
        out_console.print(f"... and {len(found.rejected) - SHOWN} more (--json lists them)")
    for note in found.notes:
        out_console.print(note, style="dim")
    took = ", ".join(f"{name} {duration(value)}" for name, value in found.seconds.items())
    out_console.print(
        f"threshold {found.threshold:.4g}, chosen on {found.validation} clean texts; {took}",
        style="dim",
    )
