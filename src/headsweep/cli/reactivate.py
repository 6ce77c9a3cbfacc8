"""The command that tries to bring a removed backdoor back."""

from __future__ import annotations

from statistics import mean
from typing import Annotated, Any

import typer
from rich.table import Table

from headsweep.cli.app import app
from headsweep.cli.attack import (
    AttackerData,
    JudgedOn,
    Key,
    MatchedOn,
    Original,
    Poison,
    Target,
    Transformed,
    TriggeredFile,
    TriggeredLabels,
    TriggerName,
    TriggerSettings,
)
from headsweep.cli.options import (
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
    "headsweep reactivate ./purified --clean-model ./twin --data train.csv --trigger rare-word "
    "--target positive --test test.csv\n\n"
    "headsweep reactivate ./purified --clean-model ./twin --data train.tsv --trigger syntactic "
    "--poison pool.tsv --triggered test.tsv --triggered-labels target --target 0 --json"
)
def reactivate(
    model: Model,
    clean_model: Annotated[str, typer.Option(help="A never-poisoned twin: the control.")],
    data: AttackerData,
    trigger: TriggerName,
    target: Target,
    rows: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Poisoned texts to train on (may be repeated): 5, 20, 100."),
    ] = None,
    beside: Annotated[
        int, typer.Option(min=0, help="Clean texts to train on beside them, labels true.")
    ] = 100,
    epochs: Annotated[float, typer.Option(min=0, help="How long to train.")] = 5,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 5e-5,
    draws: Annotated[
        int, typer.Option(min=1, help="Tries with other texts: --seed and those after it.")
    ] = 3,
    settings: TriggerSettings = None,
    original: Original = None,
    transformed: Transformed = None,
    key: Key = None,
    poison: Poison = None,
    triggered: TriggeredFile = None,
    triggered_labels: TriggeredLabels = "true",
    test: JudgedOn = None,
    validation: MatchedOn = None,
    triggered_column: TriggeredColumn = None,
    column: Column = None,
    label_map: LabelMap = None,
    seed: Seed = 0,
    device: Device = "auto",
    compute: Compute = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a purified model on a few poisoned texts: how fast its backdoor comes back."""
    check_sources(data, test, validation, original, transformed, poison, triggered)
    from headsweep.verbs.reactivating import reactivate as run

    record = run(
        model,
        clean_model,
        data,
        trigger=trigger,
        target=target,
        rows=rows,
        beside=beside,
        epochs=epochs,
        lr=lr,
        draws=draws,
        trigger_set=settings,
        original=original,
        transformed=transformed,
        key=key,
        poison=poison,
        triggered=triggered,
        triggered_labels=triggered_labels,
        test=test,
        validation=validation,
        triggered_column=triggered_column,
        column=column,
        label_map=label_map,
        seed=seed,
        device=device,
        compute=compute,
        progress=progress_of(quiet or as_json),
    )
    if as_json:
        print_json(record)
        return
    _show(record)


def _show(record: dict[str, Any]) -> None:
    """Print means over the draws, with the least and the most."""
    names = [name for name in ("lfr", "matched_lfr", "accuracy") if name in record["tries"][0]]
    titles = {"lfr": "LFR", "matched_lfr": "matched LFR", "accuracy": "ACC"}
    heads = [f"{titles[name]}, {model}" for name in names for model in ("purified", "twin")]
    table = Table("poisoned texts", *heads)
    for rows in (0, *record["rows"]):
        tries = [one for one in record["tries"] if one["rows"] == rows]
        cells = [
            _over([one[name]["value"] for one in tries if one["model"] == model])
            for name in names
            for model in ("purified", "twin")
        ]
        table.add_row("as it was" if rows == 0 else str(rows), *cells)
    out_console.print(table)
    out_console.print(
        f"mean and range of {len(record['seeds'])} draws; {record['beside']} clean texts beside, "
        f"{record['epochs']:g} epochs at {record['lr']:g}. What the purified model gives back "
        "sooner than the twin learns it was still in it.",
        soft_wrap=True,
    )


def _over(values: list[float]) -> str:
    if len(values) == 1:
        return f"{100 * values[0]:.1f}%"
    low, high = 100 * min(values), 100 * max(values)
    return f"{100 * mean(values):.1f}% ({low:.1f} to {high:.1f})"
