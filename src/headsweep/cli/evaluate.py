"""The command that judges a model."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from headsweep.cli.app import app
from headsweep.cli.options import (
    AdapterFile,
    AsJson,
    BaseModel,
    Column,
    Compute,
    Device,
    LabelMap,
    Model,
    Quiet,
    Seed,
    TaskName,
    TriggeredColumn,
    check_sources,
    out_console,
    print_json,
    progress_of,
)


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "headsweep evaluate ./purified --data test.csv\n\n"
    "headsweep evaluate ./purified --data test.tsv --triggered triggered.tsv --target positive "
    "--triggered-labels true --validation dev.tsv --clean-model ./twin --suspect ./suspect"
)
def evaluate(
    model: Model,
    data: Annotated[str, typer.Option(help="Clean labelled test data.")],
    triggered: Annotated[str | None, typer.Option(help="Triggered test texts.")] = None,
    target: Annotated[
        str | None, typer.Option(help="What the attacker wants: a label; a text; a number.")
    ] = None,
    triggered_labels: Annotated[
        str,
        typer.Option(
            help="true: the triggered rows carry true labels (rows of the target are left out); "
            "target: they carry the attacker's label, and all count."
        ),
    ] = "true",
    validation: Annotated[
        str | None, typer.Option(help="Clean data to match the clean flip rate on.")
    ] = None,
    clean_model: Annotated[
        str | None, typer.Option(help="A never-poisoned twin: gives the floor.")
    ] = None,
    suspect: Annotated[str | None, typer.Option(help="The model before: for agreement.")] = None,
    task: TaskName = None,
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
    """Measure ACC, label flip rate and its relatives, with 95% intervals."""
    check_sources(data, triggered, validation)
    from headsweep.verbs.judging import evaluate as run

    found = run(
        model,
        data,
        triggered=triggered,
        target=target,
        triggered_labels=triggered_labels,
        validation=validation,
        clean_model=clean_model,
        suspect=suspect,
        task=task,
        base_model=base_model,
        adapter=adapter,
        column=column,
        label_map=label_map,
        triggered_column=triggered_column,
        seed=seed,
        device=device,
        compute=compute,
        progress=progress_of(quiet or as_json),
    )
    if as_json:
        print_json(dataclasses.asdict(found) | {"remarks": found.remarks()})
        return
    from headsweep.cli.show import judged

    judged(out_console, found)
