"""The command that takes a suspect and writes a purified model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from headsweep.cli import running
from headsweep.cli.app import app
from headsweep.cli.listing import method_named
from headsweep.cli.options import (
    AdapterFile,
    AsJson,
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
    UnitKinds,
    Validation,
    check_sources,
    mask_in,
    one_of,
    plan_of,
    sources_of,
    units_of,
    with_recipe,
)
from headsweep.errors import UserError

USUAL_STRATEGY = "gradient"


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "headsweep purify ./suspect --data clean.csv --out ./purified\n\n"
    "headsweep purify org/model --data imdb:train --max-drop 0.01 --out ./purified\n\n"
    "headsweep purify ./suspect --data train.tsv --validation dev.tsv --test test.tsv "
    "--strategy gradient --set step=6 --heal epochs=0 --out ./pruned-only\n\n"
    "headsweep purify ./suspect --recipe recipes/gradient.toml --data clean.csv --out ./out\n\n"
    "headsweep purify ./suspect --data clean.csv --strategy probe-guided --heal on=probes "
    "--heal lr=3e-5 --out ./purified\n\n"
    "headsweep purify ./suspect --data clean.csv --strategy auto --set budget_seconds=10m "
    "--out ./purified\n\n"
    "Exit codes: 0 done, 1 no head could be removed within the bound or the result did not "
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
            help="See `headsweep strategies`; auto: chosen by trying; none: heal only. "
            f"[dim]\\[default: {USUAL_STRATEGY}][/dim]"
        ),
    ] = None,
    settings: Annotated[list[str] | None, Fields("--set", "Field of the strategy.")] = None,
    heal: Heal = None,
    max_drop: MaxDrop = None,
    min_accuracy: MinAccuracy = None,
    units: UnitKinds = "heads",
    start: Annotated[
        str, typer.Option(help="classifier: as it is; encoder: fresh head first, as in the paper.")
    ] = "classifier",
    mask: Annotated[Path | None, typer.Option(help="Apply this head mask, do not search.")] = None,
    recipe: RecipeFile = None,
    probed: Annotated[
        bool, typer.Option("--probe", help="Run the probe battery before and after.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write a page of it to this file.")] = None,
    column: Column = None,
    label_map: LabelMap = None,
    seed: Seed = 0,
    device: Device = "auto",
    compute: SearchCompute = None,
    adapter: AdapterFile = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Prune the heads of a suspect classifier on clean data, heal it, save it with evidence."""
    from headsweep.export.folders import check_free

    check_sources(data, validation, test)
    check_free(out, overwrite)
    sources = sources_of(data, validation, test, column, label_map)
    job = running.Job(model, sources, out, overwrite, as_json, quiet, probed, report)
    from headsweep.auto.candidates import Auto
    from headsweep.purification.recipe import Asked

    fields, healing = tuple(settings or ()), tuple(heal or ())
    own = Asked(strategy, fields, max_drop, min_accuracy, seed, start, units, healing)
    asked = with_recipe(ctx, own, recipe, "strategy", {Auto.name: Auto})
    plan = plan_of(asked.seed, device, compute, adapter)
    job.check_files(mask)
    method, run, plan, go_on = _planned(asked, mask, plan)
    running.run(job, run, method, plan, go_on)


def _planned(
    asked: Any, mask: Path | None, plan: Any
) -> tuple[Any, Callable[..., Any], Any, Callable[[Path], str]]:
    """Return method, what runs it, plan with probes, and how to go on; raises UserError."""
    from headsweep.auto.automatic import purify_automatically
    from headsweep.auto.candidates import Auto
    from headsweep.prune.strategies import STRATEGIES
    from headsweep.prune.strategies.gradient import Gradient
    from headsweep.purification.from_encoder import STARTS
    from headsweep.settings import configure

    start = one_of(asked.start, tuple(STARTS), "--start")
    table = STRATEGIES | {Auto.name: Auto}
    chosen = configure(
        method_named(asked.method or USUAL_STRATEGY, table, "strategy"), asked.fields
    )
    if not isinstance(chosen, Auto):
        method = _method(asked, chosen, mask)
        prober = _prober(asked.probes, asked.seed, method.needs_probes)
        plan = dataclasses.replace(plan, prober=prober)
        return method, STARTS[start], plan, running.same_with
    asked.check_auto(mask is not None)
    if asked.probes:
        chosen = dataclasses.replace(chosen, families=asked.probes)
    method = _method(asked, Gradient(), None)
    go_on = partial(running.chosen_with, asked=method.healing, families=chosen.families)
    return method, partial(purify_automatically, auto=chosen), plan, go_on


def _method(asked: Any, strategy: Any, mask: Path | None) -> Any:
    """Return all that is done to the suspect; raises UserError where its parts do not fit."""
    from headsweep.purification.bound import Bound
    from headsweep.purification.interrupted import Given
    from headsweep.purification.method import USUAL, Method

    pruning = strategy if mask is None else Given(*mask_in(mask))
    healing = asked.healing(USUAL[asked.start], pruning.needs.pruning)
    if asked.start == "encoder" and not healing.trains:
        raise UserError(
            "--start encoder ends with a fresh classifier, which must be trained",
            "leave epochs=0 out",
        )
    deeper = asked.prune_drop
    if deeper is None and mask is not None and pruning.found is not None and healing.trains:
        deeper = pruning.found.prune_drop  # what the interrupted run was allowed
    bound = Bound(asked.max_drop, asked.min_accuracy, deeper)
    return Method(pruning, healing, units_of(asked.units), bound)


def _prober(families: tuple[str, ...], seed: int, needed: bool) -> Any:
    """Return what makes probes, where they are needed; raises UserError."""
    from headsweep.triggers.probe_families import RuleProber

    if not needed:
        if families:
            raise UserError(
                "probes: nothing asked for uses probes",
                "add --heal on=probes, or --strategy probe-guided",
            )
        return None
    return RuleProber(families, seed=seed)
