"""Commands that take a suspect and write a purified model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from headsweep.cli.app import Interrupted, app
from headsweep.cli.listing import method_named
from headsweep.cli.options import (
    HEALING,
    AdapterFile,
    AsJson,
    BatchSize,
    CacheMib,
    Device,
    DropEmpty,
    FfnGroups,
    Fraction,
    LabelColumn,
    LabelMap,
    MaxDrop,
    MaxLength,
    MeasureIn,
    MinAccuracy,
    Model,
    PairColumn,
    Precision,
    Quiet,
    RecipeFile,
    Seed,
    TextColumn,
    UnitKinds,
    check_file,
    check_sources,
    columns_of,
    given_in,
    mask_in,
    one_of,
    out_console,
    print_json,
    progress_of,
    runtime_of,
    search_runtime,
    text_of,
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
    "--strategy gradient --set step=6 --heal-epochs 0 --out ./pruned-only\n\n"
    "headsweep purify ./suspect --recipe recipes/gradient.toml --data clean.csv --out ./out\n\n"
    "headsweep purify ./suspect --data clean.csv --strategy probe-guided --heal-with probes "
    "--heal-epochs 1 --heal-lr 3e-5 --attention-penalty 0 --out ./purified\n\n"
    "headsweep purify ./suspect --data clean.csv --prune-drop 0.1 --out ./purified\n\n"
    "headsweep purify ./suspect --data clean.csv --strategy auto --budget 10m --out ./purified\n\n"
    "Exit codes: 0 done, 1 no head could be removed within the bound or the result did not "
    "verify, 2 a mistake in what was asked, 130 interrupted."
)
def purify(
    ctx: typer.Context,
    model: Model,
    data: Annotated[str, typer.Option(help="Clean labelled data: file, folder or name:split.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    validation: Annotated[str | None, typer.Option(help="Data that decides; else 15%.")] = None,
    test: Annotated[str | None, typer.Option(help="Data for the last figure; else 15%.")] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="See `headsweep strategies` (gradient); auto: chosen by trying; none: heal only."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Strategy field.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time for --strategy auto (10m).")
    ] = None,
    max_drop: MaxDrop = None,
    min_accuracy: MinAccuracy = None,
    prune_drop: Annotated[
        float | None,
        Fraction(
            "--prune-drop",
            below_one=True,
            help="How far it may fall while heads are chosen, before healing.",
        ),
    ] = None,
    start: Annotated[
        str,
        typer.Option(help="classifier: as it is; encoder: fresh head first, as in the paper."),
    ] = "classifier",
    heal_epochs: Annotated[
        float | None,
        typer.Option(
            min=0,
            rich_help_panel=HEALING,
            help="Fine-tuning after pruning (4; from the encoder 3); 0: none.",
        ),
    ] = None,
    heal_lr: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=HEALING,
            help="Its learning rate (1.5e-4; from the encoder 2e-5).",
        ),
    ] = None,
    heal_halvings: Annotated[
        int | None,
        typer.Option(
            min=0,
            rich_help_panel=HEALING,
            help="How often it may begin anew at half the rate, where accuracy ends below the "
            "bound (3; with --heal-lr and from the encoder 0).",
        ),
    ] = None,
    heal_with: Annotated[
        str,
        typer.Option(
            rich_help_panel=HEALING,
            help="clean: clean texts; probes: 40% of them turned into probes.",
        ),
    ] = "clean",
    attention_penalty: Annotated[
        float | None,
        typer.Option(
            min=0,
            rich_help_panel=HEALING,
            help="Weight of PURE's penalty on attention to few tokens (0.15; from the encoder 0).",
        ),
    ] = None,
    probe_family: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this family of probes (may be repeated)."),
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Apply this head mask, do not search.")] = None,
    recipe: RecipeFile = None,
    units: UnitKinds = "heads",
    ffn_groups: FfnGroups = None,
    probed: Annotated[
        bool, typer.Option("--probe", help="Run the probe battery before and after.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write a page of the purification to this file.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    adapter: AdapterFile = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    drop_empty: DropEmpty = False,
    label_map: LabelMap = None,
    seed: Seed = 0,
    device: Device = "auto",
    batch_size: BatchSize = 32,
    max_length: MaxLength = 128,
    precision: Precision = "auto",
    measure_in: MeasureIn = "auto",
    cache_mib: CacheMib = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Prune the heads of a suspect classifier on clean data, heal it, save it with evidence."""
    from headsweep.export.folders import check_free

    check_sources(data, validation, test)
    check_free(out, overwrite)
    from headsweep.auto.automatic import purify_automatically
    from headsweep.auto.candidates import Auto
    from headsweep.model.families import read_adapter
    from headsweep.prune.strategies import STRATEGIES
    from headsweep.prune.strategies.gradient import Gradient
    from headsweep.purification.bound import Bound
    from headsweep.purification.from_encoder import STARTS
    from headsweep.purification.interrupted import Given
    from headsweep.purification.material import Sources
    from headsweep.purification.method import HOT, PAPER, Method
    from headsweep.purification.plan import Plan
    from headsweep.purification.recipe import Asked
    from headsweep.reports import page
    from headsweep.settings import configure

    runtime = search_runtime(
        runtime_of(device, batch_size, max_length, precision), measure_in, cache_mib
    )
    asked = with_recipe(
        ctx,
        Asked(
            strategy,
            tuple(settings or ()),
            max_drop,
            min_accuracy,
            seed,
            start,
            units,
            ffn_groups,
            heal_epochs,
            heal_lr,
            heal_with,
            prune_drop,
            attention_penalty,
            heal_halvings,
        ),
        recipe,
        "strategy",
        {Auto.name: Auto},
    )
    table = STRATEGIES | {Auto.name: Auto}
    if report is not None:
        _check_report(report, out, overwrite)
    kept = _mask_file(out)
    if kept.exists() and (mask is None or kept.absolute() != mask.absolute()):
        raise UserError(
            f"{kept}: is there already, it may be the mask of an interrupted run",
            f"go on from it with --mask {kept}, or remove it",
        )
    start = one_of(asked.start, tuple(STARTS), "--start")
    if start == "encoder" and asked.heal_epochs == 0:
        raise UserError(
            "--start encoder ends with a fresh classifier, which must be trained",
            "leave --heal-epochs 0 out",
        )
    usual = HOT if start == "classifier" else PAPER
    named = USUAL_STRATEGY if asked.method is None else asked.method
    chosen = configure(method_named(named, table, "strategy"), asked.fields)
    chooses = isinstance(chosen, Auto)
    pruning = Given(*mask_in(mask)) if mask else (Gradient() if chooses else chosen)
    method = Method(
        pruning,
        _healing(asked, usual, pruning),
        units_of(asked.units, asked.ffn_groups),
        Bound(asked.max_drop, asked.min_accuracy, asked.prune_drop),
    )
    plan = Plan(asked.seed, runtime, read_adapter(adapter) if adapter else None)
    if chooses:
        _check_auto(asked, start, mask)
        run = partial(purify_automatically, auto=_timed(chosen, budget, probe_family))
    else:
        if budget is not None:
            raise UserError("--budget is for --strategy auto", "leave it out, or choose auto")
        plan = dataclasses.replace(
            plan, prober=_prober(probe_family, asked.seed, method.needs_probes)
        )
        run = partial(STARTS[start])
    sources = Sources(
        data,
        validation,
        test,
        columns_of(text_column, pair_column, label_column, drop_empty, label_map),
    )
    keep = kept if pruning.needs.pruning else None
    job = Job(model, sources, method, plan, out, overwrite, as_json, quiet)
    done = _run(run, job, keep, probed, chooses)
    if report is not None:
        page.write(report, page.of_purification(done.manifest))
        if not as_json:
            out_console.print(f"report: {report}", soft_wrap=True)
    _end(done, out, as_json)


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "headsweep defend ./suspect --with pure --data clean.csv --out ./pure\n\n"
    "headsweep defend ./suspect --with fth --set lr=2e-4 --data clean.csv --out ./fth\n\n"
    "headsweep defend ./suspect --with random --set count=20 --data clean.csv --out ./control"
)
def defend(
    ctx: typer.Context,
    model: Model,
    data: Annotated[str, typer.Option(help="Clean labelled data: file, folder or name:split.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    baseline: Annotated[
        str | None,
        typer.Option(
            "--with", help="ft, fth, meft, pure, fine-pruning; controls: random, nothing."
        ),
    ] = None,
    validation: Annotated[str | None, typer.Option(help="Data that decides; else 15%.")] = None,
    test: Annotated[str | None, typer.Option(help="Data for the last figure; else 15%.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Its field.")
    ] = None,
    max_drop: MaxDrop = None,
    min_accuracy: MinAccuracy = None,
    recipe: RecipeFile = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    adapter: AdapterFile = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    drop_empty: DropEmpty = False,
    label_map: LabelMap = None,
    seed: Seed = 0,
    device: Device = "auto",
    batch_size: BatchSize = 32,
    max_length: MaxLength = 128,
    precision: Precision = "auto",
    measure_in: MeasureIn = "auto",
    cache_mib: CacheMib = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run a baseline or a control on a suspect, for comparison with `purify`."""
    from headsweep.export.folders import check_free

    check_sources(data, validation, test)
    check_free(out, overwrite)
    from headsweep.model.families import read_adapter
    from headsweep.purification.baselines import DEFENSES
    from headsweep.purification.bound import Bound
    from headsweep.purification.material import Sources
    from headsweep.purification.pipeline import purify as purify_classifier
    from headsweep.purification.plan import Plan
    from headsweep.purification.recipe import Asked
    from headsweep.settings import configure

    runtime = search_runtime(
        runtime_of(device, batch_size, max_length, precision), measure_in, cache_mib
    )
    own = Asked(baseline, tuple(settings or ()), max_drop, min_accuracy, seed)
    asked = with_recipe(ctx, own, recipe, "defense")
    if asked.method is None:
        raise UserError("which baseline?", f"--with one of {', '.join(DEFENSES)}, or --recipe FILE")
    method = configure(method_named(asked.method, DEFENSES, "baseline"), asked.fields).method()
    if method.bound is None and {"max_drop", "min_accuracy"} & given_in(ctx):
        raise UserError(
            f"{asked.method} searches no heads here: no bound on accuracy holds it",
            "leave out --max-drop and --min-accuracy",
        )
    method = method.within(Bound(asked.max_drop, asked.min_accuracy))
    plan = Plan(asked.seed, runtime, read_adapter(adapter) if adapter else None)
    columns = columns_of(text_column, pair_column, label_column, drop_empty, label_map)
    sources = Sources(data, validation, test, columns)
    job = Job(model, sources, method, plan, out, overwrite, as_json, quiet)
    done = _run(purify_classifier, job)
    _end(done, out, as_json)


def _end(done: Any, out: Path, as_json: bool) -> None:
    """Say in the last line what came of it; exit with 1 where it did not verify."""
    from headsweep.cli import show

    if not as_json:
        ending = show.ending(done.manifest, out)
        out_console.print(ending, style="bold", highlight=False, markup=False, soft_wrap=True)
    if not done.verified:
        raise typer.Exit(1)


def _check_report(path: Path, out: Path, overwrite: bool) -> None:
    """Check, before any work, that the page can be made and written; raises UserError."""
    from headsweep.reports import charts

    charts.plotly()
    if path.absolute() == out.absolute():
        raise UserError(f"--report {path}: that is --out, a folder", "name a file")
    check_file(path, overwrite)


@dataclasses.dataclass(frozen=True)
class Job:
    """What a command was asked to do, and how it is to say so."""

    model: str
    sources: Any
    method: Any
    plan: Any
    out: Path
    overwrite: bool
    as_json: bool
    quiet: bool

    @property
    def progress(self) -> Any:
        """Where to report to."""
        return progress_of(self.quiet or self.as_json)


def _healing(asked: Any, usual: Any, pruning: Any) -> Any:
    """Return the healing; raises UserError where what is asked of it does not fit."""
    from headsweep.heal.fine_tune import FineTune

    halvings = asked.heal_halvings
    if halvings is None:
        halvings = usual.halvings if asked.heal_lr is None else 0
    heal = FineTune(
        usual.epochs if asked.heal_epochs is None else asked.heal_epochs,
        usual.lr if asked.heal_lr is None else asked.heal_lr,
        one_of(asked.heal_with or "clean", ("clean", "probes"), "--heal-with"),
        attention=usual.attention if asked.attention_penalty is None else asked.attention_penalty,
        halvings=halvings,
    )
    if not (pruning.needs.pruning or heal.trains):
        raise UserError("nothing to do: no strategy and no healing", "leave out --heal-epochs 0")
    beside = heal.on == "probes" or asked.heal_halvings or asked.attention_penalty
    if not heal.trains and beside:
        raise UserError(
            "there is no healing for --heal-with, --heal-halvings or --attention-penalty",
            "leave out --heal-epochs 0, or these",
        )
    return heal


def _check_auto(asked: Any, start: str, mask: Path | None) -> None:
    """Refuse what auto chooses itself; raises UserError."""
    if start == "encoder" or mask is not None:
        raise UserError("auto chooses heads on a classifier", "use --start classifier, no --mask")
    if asked.heal_with not in (None, "clean") or asked.attention_penalty is not None:
        raise UserError(
            "auto tries healings itself", "leave out --heal-with and --attention-penalty"
        )
    if asked.prune_drop is not None:
        raise UserError("auto tries depths itself", "leave out --prune-drop")


def _timed(auto: Any, budget: str | None, families: list[str] | None) -> Any:
    """Return how to choose, with the budget and the probe families asked for."""
    from headsweep.auto.automatic import seconds_of

    changes: dict[str, Any] = {"families": tuple(families)} if families else {}
    if budget is not None:
        changes["budget_seconds"] = seconds_of(budget)
    return dataclasses.replace(auto, **changes)


def _prober(families: list[str] | None, seed: int, needed: bool) -> Any:
    """Return what makes probes, where they are needed; raises UserError."""
    from headsweep.triggers.probe_families import RuleProber

    if not needed:
        if families:
            raise UserError(
                "--probe-family: nothing asked for uses probes",
                "add --heal-with probes, or --strategy probe-guided",
            )
        return None
    return RuleProber(tuple(families or ()), seed=seed)


def _mask_file(out: Path) -> Path:
    out = out.absolute()
    return out.with_name(f"{out.name}.head-mask.json")


def _is_kept(path: Path) -> bool:
    """Tell whether a mask file is one that an interrupted run left behind."""
    from headsweep.purification.interrupted import KEPT

    return path.exists() and f'"{KEPT}"' in path.read_text(encoding="utf-8")


def _go_on(kept: Path, chose_itself: bool) -> str:
    """Return how to go on from a mask that was kept."""
    from headsweep.purification.interrupted import Found

    found = Found.of(text_of(kept))
    if not chose_itself or found is None:
        return f"run the same command with --mask {kept} to go on"
    fields = found.heal["fields"]
    healing = " --heal-with probes" * (fields.get("on") == "probes")
    healing += f" --attention-penalty {fields.get('attention') or 0:g}"
    if found.prune_drop is not None:
        healing += f" --prune-drop {found.prune_drop:g}"
    left = "--strategy and --budget"
    if fields.get("on") != "probes":
        left += " (and --probe-family)"
    return f"to go on, run it with --mask {kept}{healing} in place of {left}"


def _run(
    run: Callable[..., Any],
    job: Job,
    kept: Path | None = None,
    probed: bool = False,
    chose_itself: bool = False,
) -> Any:
    """Run the pipeline, save, print; return what was made."""
    from headsweep.cli.probe import before_and_after

    method, plan = job.method, job.plan
    both: dict[str, Any] = {}
    saving = False
    try:
        done = run(
            job.model,
            job.sources,
            method=method,
            plan=plan,
            progress=job.progress,
            keep_mask=kept,
        )
        if probed:
            both = before_and_after(job.model, done, plan, job.progress)
        saving = True
        done.save(job.out, job.overwrite)
    except KeyboardInterrupt:
        if kept is not None and _is_kept(kept):
            told = _go_on(kept, chose_itself)
            raise Interrupted(f"the head mask is kept: {told}") from None
        raise Interrupted("nothing was written") from None
    except UserError as error:
        if saving and kept is not None and _is_kept(kept):  # a full disk takes no hours of search
            told = f"the head mask is kept: {_go_on(kept, chose_itself)}"
            raise UserError(error.what, f"{error.fix}; {told}" if error.fix else told) from error
        _drop(kept, method)
        raise
    except BaseException:
        if not saving:
            _drop(kept, method)
        raise
    if kept is not None and _is_kept(kept):
        kept.unlink()
    if job.as_json:
        print_json(done.manifest)
    else:
        _show(done, both, job.out)
    return done


def _drop(kept: Path | None, method: Any) -> None:
    """Remove the mask of a run that came to nothing, unless it was given one."""
    if kept is not None and method.pruning.name != "given mask":
        kept.unlink(missing_ok=True)


def _show(done: Any, both: dict[str, Any], out: Path) -> None:
    from headsweep.cli import show
    from headsweep.cli.probe import print_both

    if "auto" in done.manifest:
        show.tried(out_console, done.manifest["auto"])
    show.purified(out_console, done.manifest)
    show.checks(out_console, done.checks)
    if both:
        print_both(both)
    out_console.print(f"\nwritten: {out}", soft_wrap=True)
    out_console.print(
        "Pruning can fail: this is no proof that the model is clean. Judge it on triggers of "
        "your own with `headsweep evaluate`.",
        style="dim",
    )
