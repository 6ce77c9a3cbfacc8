"""The command that runs a baseline or a control."""

from __future__ import annotations

import dataclasses
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
    Validation,
    check_sources,
    sources_of,
    with_recipe,
)
from headsweep.errors import UserError
from headsweep.verbs.arguments import plan_of
from headsweep.verbs.methods import method_named


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "headsweep defend ./suspect --with pure --data clean.csv --out ./pure\n\n"
    "headsweep defend ./suspect --with fth --set lr=2e-4 --data clean.csv --out ./fth\n\n"
    "headsweep defend ./suspect --with random --set count=20 --data clean.csv --out ./control"
)
def defend(
    ctx: typer.Context,
    model: Model,
    data: CleanData,
    out: OutFolder,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--with", help="ft, fth, meft, pure, fine-pruning, crow; controls: random, nothing."
        ),
    ] = None,
    validation: Validation = None,
    test: LastTest = None,
    settings: Annotated[list[str] | None, Fields("--set", "Field of the baseline.")] = None,
    max_drop: MaxDrop = None,
    min_accuracy: MinAccuracy = None,
    task: TaskName = None,
    recipe: RecipeFile = None,
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
    """Run a baseline or a control on a suspect, for comparison with `purify`."""
    check_sources(data, validation, test)
    read = (model, base_model, data, validation, test, recipe, adapter)
    running.check_files(out, overwrite, read)
    sources = sources_of(data, validation, test, column, label_map)
    job = running.Job(model, sources, out, overwrite, as_json, quiet, task=task, adapter=adapter)
    from headsweep.model.loading import task_at
    from headsweep.purification.baselines import DEFENSES
    from headsweep.purification.bound import Bound
    from headsweep.purification.pipeline import purify
    from headsweep.purification.recipe import Asked
    from headsweep.settings import configure

    own = Asked(baseline, tuple(settings or ()), max_drop, min_accuracy, seed)
    asked = with_recipe(ctx, own, recipe, "defense")
    if asked.method is None:
        raise UserError("which baseline?", f"--with one of {', '.join(DEFENSES)}, or --recipe FILE")
    method = configure(method_named(asked.method, DEFENSES, "baseline"), asked.fields).method()
    if method.bound is None and (asked.max_drop, asked.min_accuracy) != (None, None):
        raise UserError(
            f"{asked.method} searches no heads here: no bound on accuracy holds it",
            "leave out --max-drop and --min-accuracy, in a recipe max_drop and min_accuracy",
        )
    method = method.within(Bound(asked.max_drop, asked.min_accuracy))
    plan = plan_of(asked.seed, device, compute, adapter, base_model)
    plan = dataclasses.replace(plan, task=task_at(model, task, base_model))
    running.run(job, purify, method, plan)
