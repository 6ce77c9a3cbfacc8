"""The command that tries to bring a removed backdoor back."""

from __future__ import annotations

from statistics import mean
from typing import Annotated, Any

import typer
from rich.table import Table

from headsweep.cli.app import app
from headsweep.cli.attack import (
    Key,
    Original,
    Poison,
    Transformed,
    TriggeredFile,
    TriggeredLabels,
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
    check_sources,
    out_console,
    print_json,
    progress_of,
)
from headsweep.verbs.arguments import columns_of, one_of, runtime_of

FORMAT = "headsweep.reactivation/1"


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
    data: Annotated[str, typer.Option(help="The attacker's clean labelled data.")],
    trigger: Annotated[str, typer.Option(help="See `headsweep trigger --list`.")],
    target: Annotated[str, typer.Option(help="The label that triggered texts are to get.")],
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
    settings: Annotated[
        list[str] | None,
        typer.Option("--trigger-set", metavar="FIELD=VALUE", help="The trigger's field."),
    ] = None,
    original: Original = None,
    transformed: Transformed = None,
    key: Key = None,
    poison: Poison = None,
    triggered: TriggeredFile = None,
    triggered_labels: TriggeredLabels = "true",
    test: Annotated[str | None, typer.Option(help="Clean test data; else 15% of --data.")] = None,
    validation: Annotated[
        str | None, typer.Option(help="Clean data to match the clean flip rate on.")
    ] = None,
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
    meaning = one_of(triggered_labels, ("true", "target"), "--triggered-labels")
    from headsweep.attacks.reactivation import Reactivation
    from headsweep.attacks.reactivation import reactivate as run
    from headsweep.attacks.scene import Scene
    from headsweep.attacks.victim import Judging, exam_of, held_out
    from headsweep.export.provenance import command_line, environment
    from headsweep.judge.evaluate import Triggered
    from headsweep.model.loading import load_suspect
    from headsweep.task.training import Schedule
    from headsweep.texts import reading as datasets
    from headsweep.verbs.attacking import TriggerSource, poison_of

    seeds = tuple(range(seed, seed + draws))
    how = Reactivation(tuple(rows or Reactivation.rows), beside, Schedule(epochs, lr), seeds)
    columns = columns_of(column, label_map)
    files = (data, test, validation, poison, triggered)
    datasets.check_label_map(columns, *((file, None) for file in files))
    runtime, progress = (
        runtime_of(device, compute),
        progress_of(quiet or as_json),
    )
    purified, twin = (load_suspect(one, runtime) for one in (model, clean_model))
    labels = purified.labels
    goal = labels.index(target, "--target")
    fields = tuple(settings or ())
    source = TriggerSource(
        trigger, fields, original, transformed, key, poison=poison, triggered=triggered
    )
    rewriter, pool = poison_of(source, columns, labels, goal)
    read = [datasets.load(file, columns, labels) if file else None for file in files]
    assert read[0] is not None
    clean, held = held_out(read[0], read[1], seed)
    given = None if read[4] is None else Triggered(read[4], goal, meaning)
    judging = Judging(held, given, read[2])
    exam, _ = exam_of(judging, rewriter, goal, purified, (seed, runtime.max_length), progress)
    others = sum(label != goal for label in clean.labels)
    rate = min(1.0, max(how.rows) / max(1, others))
    scenes = [
        Scene(purified, clean, rewriter, goal, rate, one, runtime, pool=pool) for one in seeds
    ]
    found = run(purified, twin, scenes, exam, how, progress)
    record: dict[str, Any] = {
        "format": FORMAT,
        "models": {"purified": model, "twin": clean_model},
        "trigger": rewriter.described(),
        "target": labels.names[goal],
        "rows": list(how.rows),
        "beside": beside,
        "epochs": epochs,
        "lr": lr,
        "seeds": list(seeds),
        "precision": "bf16" if runtime.trains_in_bf16() else "fp32",
        "tries": [one.to_json() for one in found],
        "environment": environment(),
        "command": command_line(),
    }
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
