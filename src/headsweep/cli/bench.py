"""The command that runs a grid."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.table import Table

from headsweep.cli.app import Interrupted, app
from headsweep.cli.options import (
    Quiet,
    check_folder,
    make_folder,
    out_console,
    print_json,
    progress_of,
)
from headsweep.errors import UserError
from headsweep.progress import plain_console
from headsweep.verbs.arguments import one_of

ENGINES = ("local", "inline", "ray")


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "headsweep bench recipes/smoke.toml --out ./results\n\n"
    "headsweep bench recipes/small.toml --set corpus=./corpora/sst-2 --out ./results --dry-run\n\n"
    "headsweep bench recipes/small.toml --set corpus=./corpora/sst-2 --out ./results "
    "--only 'minilm-*-s11-*' --stop-after 110\n\n"
    "Finished cells are skipped, failed ones tried again. Exit codes: 0 none failed (all are "
    "finished, or --stop-after left some), 1 some failed, 2 a mistake in what was asked, 130 "
    "interrupted."
)
def bench(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="TOML file of the grid.")],
    out: Annotated[Path, typer.Option(help="Folder of results; finished cells are skipped.")],
    variables: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Recipe variable.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Only cells whose name holds this (or matches, with *).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run and about how long it takes.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="local: processes; inline: this process; ray: a cluster.")
    ] = "local",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cells at once; else by cores and memory.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster: HOST:PORT or auto; else one started here.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for shared steps; else the user's cache.")
    ] = None,
    any_version: Annotated[
        bool,
        typer.Option("--any-version", help="Count cells of other code or recipes as finished."),
    ] = False,
    stop_after: Annotated[
        float | None, typer.Option(min=0, help="Minutes after which no new cell is begun.")
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Also write finished cells to this TensorBoard folder.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was (or would be) done as JSON.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Run a grid of attacks, methods and seeds; one JSON file a cell."""
    from headsweep.document import read_document

    one_of(engine, ENGINES, "--engine")
    if address is not None and engine != "ray":
        raise UserError(f"--address {address} is of a Ray cluster", "add --engine ray")
    read_document(recipe)  # says at once that it is not there, or not TOML
    from headsweep.bench import harness
    from headsweep.bench.engines import jobs_for
    from headsweep.bench.grid import read_grid
    from headsweep.bench.results.store import Store
    from headsweep.bench.tracking import tensorboard as follow
    from headsweep.bench.tracking import written
    from headsweep.cache import user_cache

    grid, store = read_grid(recipe, variables or ()), Store(out)
    cache = (cache or user_cache() / "bench").absolute()
    check_folder(out, "--out")
    check_folder(cache, "--cache")
    if tensorboard is not None:
        check_folder(tensorboard, "--tensorboard")
    place = TemporaryDirectory(prefix="headsweep-") if dry_run else nullcontext(str(cache))
    with place as made:  # a dry run leaves nothing behind
        planned = harness.plan(grid, store, Path(made), only, any_version)
    jobs = jobs or jobs_for(grid.computing.threads, planned.needs_mib)
    if engine == "inline":
        jobs = 1
    if dry_run:
        _say_plan(planned, jobs, as_json)
        return
    progress = progress_of(quiet or as_json)
    _warn(planned, out)
    watch = None
    if tensorboard is not None:
        make_folder(tensorboard, "--tensorboard")
        watch = follow(tensorboard)
        for cell in planned.cells:  # those that finished without it
            form = planned.found.finished.get(cell.id)
            if form is not None and not written(tensorboard / cell.id, out / f"{cell.id}.json"):
                watch(cell, form)
    if not planned.missing:
        if as_json:
            _say_tally(harness.Tally(), out, as_json)
        else:
            out_console.print(f"all {len(planned.cells)} cells are finished: {out}", soft_wrap=True)
            _say_results(planned.found.finished, out)
        return
    if engine != "ray":  # whose machines have devices of their own
        grid.computing.runtime.trains_in_bf16()  # refused here, not in every cell
    make_folder(out, "--out")
    make_folder(cache, "--cache")
    progress.say(_headline(planned, jobs))
    threads = grid.computing.threads
    made = _engine(engine, cache, jobs, threads, address, planned.needs_mib)
    run = harness.Run(store, made, progress, watch=watch, finished=planned.found.finished)
    if stop_after is not None:
        run.until = time.monotonic() + 60 * stop_after
    try:
        tally = run.run(planned.missing)
    except KeyboardInterrupt:
        raise Interrupted(
            f"{len(run.tally.done)} cells were finished; the same command goes on from there"
        ) from None
    _say_tally(tally, out, as_json)
    if not as_json:
        again = harness.plan(grid, store, cache, only, any_version)
        _say_results(again.found.finished, out)
    if tally.failed:
        raise typer.Exit(1)


def _engine(
    name: str, cache: Path, jobs: int, threads: int, address: str | None, needs_mib: float
) -> Any:
    from headsweep.bench.engines import Inline, Local

    if name == "ray":
        from headsweep.bench.cluster import Cluster

        return Cluster(cache, address, jobs, threads, needs_mib)

    if name == "inline":
        return Inline(cache)
    return Local(cache, jobs, threads)


def _headline(planned: Any, jobs: int) -> str:
    from headsweep.progress import duration

    seconds = planned.estimate(jobs)
    about = f"about {duration(seconds)}" if seconds else "no finished cell to tell the time by yet"
    have = len(planned.found.finished)
    return (
        f"{len(planned.missing)} of {len(planned.cells)} cells to run ({have} finished), "
        f"{jobs} at once: {about}"
    )


def _warn(planned: Any, out: Path) -> None:
    """Say what in the results folder does not count."""
    errors = plain_console(stderr=True)
    for version, count in planned.found.apart.items():
        errors.print(
            f"note: {count} cells are of another version or recipe ({version}): kept in "
            f"{out / 'apart' / version} and run again; --any-version counts them as finished",
            soft_wrap=True,
        )
    for name in planned.found.aside:
        errors.print(
            f"note: {name}.json is no whole cell: set aside in {out / 'aside'} and run again",
            soft_wrap=True,
        )


def _say_plan(planned: Any, jobs: int, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "finished": sorted(planned.found.finished),
                "missing": [cell.id for cell in planned.missing],
                "apart": planned.found.apart,
                "aside": list(planned.found.aside),
                "seconds": planned.estimate(jobs),
                "jobs": jobs,
            }
        )
        return
    for cell in planned.missing:
        out_console.print(f"  {cell.id}", soft_wrap=True)
    out_console.print(_headline(planned, jobs), soft_wrap=True)
    for version, count in planned.found.apart.items():
        out_console.print(f"{count} cells are of another version or recipe: {version}")
    for name in planned.found.aside:
        out_console.print(f"{name}.json is no whole cell: it would be set aside")


def _say_tally(tally: Any, out: Path, as_json: bool) -> None:
    if as_json:
        print_json({"done": tally.done, "failed": tally.failed, "left": tally.left})
        return
    out_console.print(
        f"{len(tally.done)} cells finished, {len(tally.failed)} failed, {tally.left} left: {out}",
        soft_wrap=True,
    )
    if tally.failed:
        out_console.print(f"why they failed: {out / 'failed'}; the same command tries them again")
    elif tally.left:
        out_console.print("the same command goes on from there")


def _say_results(finished: Mapping[str, Any], out: Path) -> None:
    """Print what each method left, least first, and the command of the page."""
    from headsweep.cli.show import percent, typed

    cells: dict[str, list[Any]] = {}
    for form in finished.values():
        cells.setdefault(form["method"], []).append(form)
    table = Table("method", "cells", "excess LFR, points", "left", "ACC", "after")
    rows = []
    for method, some in cells.items():
        excess, accuracy = (
            [fmean(form[stage][name]["value"] for form in some) for stage in ("before", "after")]
            for name in ("excess_lfr", "accuracy")
        )
        rows.append((method, str(len(some)), *(f"{100 * value:+.1f}" for value in excess),
                     *map(percent, accuracy)))  # fmt: skip
    for row in sorted(rows, key=lambda row: float(row[3])):
        table.add_row(*row)
    if rows:
        out_console.print(table)
        page = shlex.join(["headsweep", "report", typed(out), "--out", "report.html"])
        victims = {frozenset(form["victim"] for form in some) for some in cells.values()}
        apart = ", not of the same victims for every method" if len(victims) > 1 else ""
        out_console.print(
            f"means over cells{apart}; intervals and comparisons are on the page:\n  {page}",
            soft_wrap=True,
        )
