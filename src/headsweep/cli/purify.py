"""The command that takes a suspect and writes a purified model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headsweep.cli import running
from headsweep.cli.app import app
from headsweep.cli.options import (
    AdapterFile,
    AsJson,
    BaseModel,
    CleanData,
    Column,
    Device,
    Fields,
    Heal,
    LabelMap,
    LastTest,
    MaxDrop,
    MinAccuracy,
    Model,
    OutFolder,
    Overwrite,
    Quiet,
    RecipeFile,
    SearchCompute,
    Seed,
    TaskName,
    UnitKinds,
    Validation,
    check_sources,
    given_in,
    sources_of,
    with_recipe,
)
from headsweep.errors import lookup
from headsweep.verbs.arguments import plan_of

PROBED = {"auto": None, "yes": True, "no": False}


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "headsweep purify ./suspect --data clean.csv --out ./purified\n\n"
    "headsweep purify org/model --data imdb:train --max-drop 0.01 --out ./purified\n\n"
    "headsweep purify ./suspect --data train.tsv --validation dev.tsv --test test.tsv "
    "--strategy gradient --set step=6 --heal epochs=0 --out ./pruned-only\n\n"
    "headsweep purify ./suspect --recipe recipes/gradient.toml --data clean.csv --out ./out\n\n"
    "Exit codes: 0 done, 1 nothing could be removed within the bound or the result did not "
    "verify, 2 a mistake in what was asked, 130 interrupted."
)
def purify(
    ctx: typer.Context,
    model: Model,
    data: CleanData,
    out: OutFolder,
    validation: Validation = None,
    test: LastTest = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="See `headsweep strategies`; none: heal only. "
            "[dim]\\[default: gradient; of a generator none][/dim]"
        ),
    ] = None,
    settings: Annotated[list[str] | None, Fields("--set", "Field of the strategy.")] = None,
    heal: Heal = None,
    max_drop: MaxDrop = None,
    min_accuracy: MinAccuracy = None,
    units: UnitKinds = "heads",
    start: Annotated[
        str, typer.Option(help="classifier: as it is; encoder: fresh classifier, as in the paper.")
    ] = "classifier",
    task: TaskName = None,
    mask: Annotated[Path | None, typer.Option(help="Apply this head mask, do not search.")] = None,
    recipe: RecipeFile = None,
    probe: Annotated[
        str, typer.Option(show_default=False, help="Probe before and after: yes, no, auto.")
    ] = "auto",
    report: Annotated[Path | None, typer.Option(help="Write a report page to this file.")] = None,
    column: Column = None,
    label_map: LabelMap = None,
    seed: Seed = 0,
    device: Device = "auto",
    compute: SearchCompute = None,
    base_model: BaseModel = None,
    adapter: AdapterFile = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Prune heads of a suspect and fine-tune it on clean data; save it with its evidence."""
    check_sources(data, validation, test)
    read = (model, base_model, data, validation, test, mask, recipe, adapter)
    running.check_files(out, overwrite, read, report)
    probed = lookup(probe, PROBED, "value of --probe")
    sources = sources_of(data, validation, test, column, label_map)
    job = running.Job(model, sources, out, overwrite, as_json, quiet, probed, report, task, adapter)
    from headsweep.purification.interrupted import Given, mask_in
    from headsweep.purification.recipe import Asked
    from headsweep.verbs.purifying import Objects, check_beside_mask, planned_for

    if mask is not None:
        check_beside_mask(strategy, settings, units if "units" in given_in(ctx) else None)
    fields, healing = tuple(settings or ()), tuple(heal or ())
    own = Asked(strategy, fields, max_drop, min_accuracy, seed, start, units, healing)
    asked = with_recipe(ctx, own, recipe, "strategy")
    plan = plan_of(asked.seed, device, compute, adapter, base_model)
    given = Objects() if mask is None else Objects(mask=Given(*mask_in(mask)))
    ready = planned_for(model, asked, plan, given, task)
    running.run(job, ready.run, ready.method, ready.plan)
