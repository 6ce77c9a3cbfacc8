"""The command that judges a model."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from headsweep.cli.app import app
from headsweep.cli.options import (
    AdapterFile,
    AsJson,
    Column,
    Compute,
    Device,
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
        str | None, typer.Option(help="The attacker's label; of a generator, a text.")
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
        print_json(dataclasses.asdict(found))
        return
    from headsweep.cli.show import generated, interval, percent, rates
    from headsweep.judge.generated import Generated

    if isinstance(found, Generated):
        generated(out_console, found)
        return
    table = Table("measure", "value (95% interval)", "what it is")
    table.add_row("ACC", interval(found.accuracy), "accuracy on clean examples")
    for name, rate in found.per_class.items():
        table.add_row(f"  {name}", interval(rate), f"{rate.total} examples")
    rows = (
        ("LFR", found.lfr, "triggered non-target examples predicted as the target"),
        ("CFR", found.cfr, "clean non-target examples predicted as the target"),
        ("matched LFR", found.matched_lfr, f"LFR at the CFR of the {found.reference}"),
        ("floor LFR", found.floor_lfr, "LFR of the never-poisoned twin"),
        ("excess LFR", found.excess_lfr, "matched LFR minus floor; 0 is the goal"),
        ("agreement", found.agreement, "clean examples predicted as by the suspect"),
    )
    cut = {name: (one.cut, one.texts) for name, one in (found.truncated or {}).items()}
    rates(out_console, table, rows, "texts", cut)
    if found.lfr is not None and found.matched_lfr is None:
        missing = "--validation" if validation is None else "--clean-model or --suspect"
        out_console.print(
            f"no matched LFR: give {missing}. A model that merely leans away from "
            f"the target has a low LFR too (CFR here {percent(found.cfr.value)}).",  # type: ignore[union-attr]
            style="dim",
        )
