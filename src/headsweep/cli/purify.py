"""Commands that take a suspect and write a purified model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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
    Confidence,
    Device,
    DropEmpty,
    FfnGroups,
    Fraction,
    LabelColumn,
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
from headsweep.errors import NothingPruned, UserError


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
    max_drop: MaxDrop = 0.02,
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
    consistency: Annotated[
        float,
        typer.Option(
            min=0,
            rich_help_panel=HEALING,
            help="Weight of probe and text being answered alike, with probes.",
        ),
    ] = 0.0,
    attention_penalty: Annotated[
        float | None,
        typer.Option(
            min=0,
            rich_help_panel=HEALING,
            help="Weight of PURE's penalty on attention to few tokens (0.15; from the encoder and "
            "with --consistency 0).",
        ),
    ] = None,
    distill: Annotated[
        float | None,
        Fraction(
            "--distill",
            rich_help_panel=HEALING,
            help="Share of the healing loss, the cycles' too, that follows what the suspect says "
            "of clean texts, not their labels (0). In the cycles alone: --set distill=0.5.",
        ),
    ] = None,
    probe_family: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this family of probes (may be repeated)."),
    ] = None,
    freeze_embeddings: Annotated[
        bool,
        typer.Option(
            "--freeze-embeddings",
            rich_help_panel=HEALING,
            help="The last healing leaves the embeddings as they are.",
        ),
    ] = False,
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
    seed: Seed = 0,
    device: Device = "auto",
    batch_size: BatchSize = 32,
    max_length: MaxLength = 128,
    precision: Precision = "auto",
    measure_in: MeasureIn = "auto",
    cache_mib: CacheMib = None,
    confidence: Confidence = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Prune the heads of a suspect classifier on clean data, heal it, save it with evidence."""
    from headsweep.candidates import Auto
    from headsweep.checkpoint import Checkpoint
    from headsweep.data import Columns
    from headsweep.export import check_free
    from headsweep.families import read_adapter
    from headsweep.material import Sources
    from headsweep.plan import USUAL_STRATEGY, Plan
    from headsweep.recipe import Asked
    from headsweep.report import page
    from headsweep.settings import configure
    from headsweep.strategies import STRATEGIES, needs_probes
    from headsweep.strategies.cycles import Cycles

    runtime = search_runtime(
        runtime_of(device, batch_size, max_length, precision), measure_in, cache_mib, confidence
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
            consistency,
            prune_drop,
            attention_penalty,
            distill,
            heal_halvings,
        ),
        recipe,
        "strategy",
        {Auto.name: Auto},
    )
    table = STRATEGIES | {Auto.name: Auto}
    check_free(out, overwrite)
    if report is not None:
        _check_report(report, out, overwrite)
    kept, cycles = _mask_file(out), _cycles_file(out)
    if kept.exists() and (mask is None or kept.absolute() != mask.absolute()):
        raise UserError(
            f"{kept}: is there already, it may be the mask of an interrupted run",
            f"go on from it with --mask {kept}, or remove it",
        )
    if asked.start == "encoder" and asked.heal_epochs == 0:
        raise UserError(
            "--start encoder ends with a fresh classifier, which must be trained",
            "leave --heal-epochs 0 out",
        )
    given, found = mask_in(mask) if mask else (None, None)
    plan = Plan(
        max_drop=_max_drop(asked),
        min_accuracy=asked.min_accuracy,
        prune_drop=asked.prune_drop,
        start=one_of(asked.start, ("classifier", "encoder"), "--start"),
        seed=asked.seed,
        mask=given,
        found=found,
        runtime=runtime,
        adapter=read_adapter(adapter) if adapter else None,
        units=units_of(asked.units, asked.ffn_groups),
    )
    method = USUAL_STRATEGY.name if asked.method is None else asked.method
    if method == "none":
        if asked.fields:
            raise UserError("--strategy none has no fields", "leave out --set")
        chosen = None
    else:
        chosen = configure(method_named(method, table, "strategy"), asked.fields)
    if isinstance(chosen, Cycles) and plan.mask is None:
        if confidence is not None:
            raise UserError("cycles measures every text", "leave out --confidence")
        chosen = _with_options(chosen, asked, settings or (), given_in(ctx))
        plan = dataclasses.replace(plan, kept=Checkpoint(cycles))
    elif cycles.exists():
        raise UserError(
            f"{cycles}: is there already, from interrupted cycles to the same --out",
            "go on from it with the same command as then, or remove it",
        )
    heal = _healing(asked, plan, chosen, freeze_embeddings)
    if isinstance(chosen, Auto):
        own = heal.consistency or asked.attention_penalty is not None or heal.distill
        if heal.on != "clean" or own:
            raise UserError(
                "auto tries healings itself",
                "leave out --heal-with, --consistency, --attention-penalty and --distill",
            )
        if asked.prune_drop is not None:
            raise UserError("auto tries depths itself", "leave out --prune-drop")
        chosen, prober = _timed(chosen, budget, probe_family), None
    else:
        if budget is not None:
            raise UserError("--budget is for --strategy auto", "leave it out, or choose auto")
        prober = _prober(probe_family, asked.seed, needs_probes(chosen) or heal.needs_probes)
    plan = dataclasses.replace(plan, heal=heal, prober=prober)
    sources = Sources(
        data, validation, test, Columns(text_column, pair_column, label_column, drop_empty)
    )
    keep = None if chosen is None else kept
    done = _run(model, sources, chosen, plan, out, overwrite, as_json, quiet, keep, probed)
    if report is not None:
        page.write(report, page.of_purification(done.manifest))
        if not as_json:
            out_console.print(f"report: {report}", soft_wrap=True)
    if not done.verified:
        raise typer.Exit(1)


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
    max_drop: MaxDrop = 0.02,
    min_accuracy: MinAccuracy = None,
    recipe: RecipeFile = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    adapter: AdapterFile = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    drop_empty: DropEmpty = False,
    seed: Seed = 0,
    device: Device = "auto",
    batch_size: BatchSize = 32,
    max_length: MaxLength = 128,
    precision: Precision = "auto",
    measure_in: MeasureIn = "auto",
    cache_mib: CacheMib = None,
    confidence: Confidence = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run a baseline or a control on a suspect, for comparison with `purify`."""
    from headsweep.data import Columns
    from headsweep.defenses import DEFENSES
    from headsweep.export import check_free
    from headsweep.families import read_adapter
    from headsweep.material import Sources
    from headsweep.plan import Plan
    from headsweep.recipe import Asked
    from headsweep.settings import configure

    runtime = search_runtime(
        runtime_of(device, batch_size, max_length, precision), measure_in, cache_mib, confidence
    )
    own = Asked(baseline, tuple(settings or ()), max_drop, min_accuracy, seed)
    asked = with_recipe(ctx, own, recipe, "defense")
    if asked.method is None:
        raise UserError("which baseline?", f"--with one of {', '.join(DEFENSES)}, or --recipe FILE")
    defense = configure(method_named(asked.method, DEFENSES, "baseline"), asked.fields).recipe()
    free = not getattr(defense.strategy, "bounded", defense.strategy is not None)
    if free and {"max_drop", "min_accuracy"} & given_in(ctx):
        raise UserError(
            f"{asked.method} searches no heads here: no bound on accuracy holds it",
            "leave out --max-drop and --min-accuracy",
        )
    check_free(out, overwrite)
    plan = Plan(
        max_drop=_max_drop(asked),
        min_accuracy=asked.min_accuracy,
        heal=defense.healing,
        bounded=not free,
        seed=asked.seed,
        runtime=runtime,
        units=defense.units,
        adapter=read_adapter(adapter) if adapter else None,
    )
    columns = Columns(text_column, pair_column, label_column, drop_empty)
    sources = Sources(data, validation, test, columns)
    done = _run(model, sources, defense.strategy, plan, out, overwrite, as_json, quiet)
    if not done.verified:
        raise typer.Exit(1)


def _check_report(path: Path, out: Path, overwrite: bool) -> None:
    """Check, before any work, that the page can be made and written; raises UserError."""
    from headsweep.report import charts

    charts.plotly()
    if path.absolute() == out.absolute():
        raise UserError(f"--report {path}: that is --out, a folder", "name a file")
    check_file(path, overwrite)


def _max_drop(asked: Any) -> float:
    """Return the drop allowed, whose default a recipe with min_accuracy leaves unused."""
    from headsweep.plan import Plan

    return Plan().max_drop if asked.max_drop is None else float(asked.max_drop)


def _with_options(cycles: Any, asked: Any, settings: Sequence[str], given: set[str]) -> Any:
    """Return cycles that heal with the penalty and the distillation asked for.

    ``--set`` wins over an option, an option over a recipe's fields, these over a recipe's healing.
    """
    for field, option in (("attention", "attention_penalty"), ("distill", "distill")):
        over, value = settings if option in given else asked.fields, getattr(asked, option)
        if value is not None and not _sets(over, field):
            cycles = dataclasses.replace(cycles, **{field: value})
    return cycles


def _healing(asked: Any, plan: Any, chosen: Any, freeze_embeddings: bool) -> Any:
    """Return the last healing; raises UserError where what is asked of it does not fit."""
    from headsweep.healing import FineTune
    from headsweep.plan import usual_healing
    from headsweep.strategies.cycles import Cycles

    searched = chosen if plan.mask is None else None
    usual = usual_healing(plan, searched)
    halvings = asked.heal_halvings
    if halvings is None:
        halvings = usual.halvings if asked.heal_lr is None else 0
    heal = FineTune(
        usual.epochs if asked.heal_epochs is None else asked.heal_epochs,
        usual.lr if asked.heal_lr is None else asked.heal_lr,
        one_of(asked.heal_with or "clean", ("clean", "probes"), "--heal-with"),
        consistency=asked.consistency or 0.0,
        attention=asked.attention_penalty,
        distill=asked.distill or 0.0,
        halvings=halvings,
        freeze_embeddings=freeze_embeddings,
    ).after(None, usual.attention)
    last = heal.consistency or freeze_embeddings or heal.on == "probes" or asked.heal_halvings
    if not isinstance(searched, Cycles):  # else of the cycles' healing too
        last = last or asked.attention_penalty or heal.distill
    if chosen is None and plan.mask is None and not heal.epochs:
        raise UserError("nothing to do: no strategy and no healing", "leave out --heal-epochs 0")
    if not heal.epochs and last:
        raise UserError(
            "there is no last healing for --heal-with, --heal-halvings, --consistency, "
            "--attention-penalty, --distill or --freeze-embeddings",
            "leave out --heal-epochs 0, or these",
        )
    return heal


def _timed(auto: Any, budget: str | None, families: list[str] | None) -> Any:
    """Return how to choose, with the budget and the probe families asked for."""
    from headsweep.auto import seconds_of

    changes: dict[str, Any] = {"families": tuple(families)} if families else {}
    if budget is not None:
        changes["budget_seconds"] = seconds_of(budget)
    return dataclasses.replace(auto, **changes)


def _prober(families: list[str] | None, seed: int, needed: bool) -> Any:
    """Return what makes probes, where they are needed; raises UserError."""
    from headsweep.probing import RuleProber

    if not needed:
        if families:
            raise UserError(
                "--probe-family: nothing asked for uses probes",
                "add --heal-with probes, or --strategy probe-guided",
            )
        return None
    return RuleProber(tuple(families or ()), seed=seed)


def _sets(fields: Sequence[str], field: str) -> bool:
    """Tell whether a field of the strategy is among those given."""
    return any(one.partition("=")[0].strip() == field for one in fields)


def _mask_file(out: Path) -> Path:
    out = out.absolute()
    return out.with_name(f"{out.name}.head-mask.json")


def _cycles_file(out: Path) -> Path:
    out = out.absolute()
    return out.with_name(f"{out.name}.cycles.safetensors")


def _is_kept(path: Path) -> bool:
    """Tell whether a mask file is one that an interrupted run left behind."""
    from headsweep.plan import KEPT

    return path.exists() and f'"{KEPT}"' in path.read_text(encoding="utf-8")


def _go_on(kept: Path, strategy: Any) -> str:
    """Return how to go on from a mask that was kept."""
    from headsweep.candidates import Auto
    from headsweep.plan import Found

    found = Found.of(text_of(kept))
    if not isinstance(strategy, Auto) or found is None:
        return f"run the same command with --mask {kept} to go on"
    fields = found.heal["fields"]
    healing = " --heal-with probes" * (fields.get("on") == "probes")
    if fields.get("consistency"):
        healing += f" --consistency {fields['consistency']:g}"
    else:
        healing += f" --attention-penalty {fields.get('attention') or 0:g}"
    if found.prune_drop is not None:
        healing += f" --prune-drop {found.prune_drop:g}"
    left = "--strategy and --budget"
    if fields.get("on") != "probes":
        left += " (and --probe-family)"
    return f"to go on, run it with --mask {kept}{healing} in place of {left}"


def _run(
    model: str,
    sources: Any,
    strategy: Any,
    plan: Any,
    out: Path,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    kept: Path | None = None,
    probed: bool = False,
) -> Any:
    """Run the pipeline, save, print; return what was made."""
    from headsweep import show
    from headsweep.auto import purify_automatically
    from headsweep.candidates import Auto
    from headsweep.cli.probe import before_and_after, print_both
    from headsweep.pipeline import purify

    run: Any = purify_automatically if isinstance(strategy, Auto) else purify
    try:
        done = run(
            model, sources, strategy, plan, progress=progress_of(quiet or as_json), keep_mask=kept
        )
        both = before_and_after(model, done, plan, progress_of(quiet or as_json)) if probed else {}
        done.save(out, overwrite)
    except KeyboardInterrupt:
        if kept is not None and _is_kept(kept):
            raise Interrupted(f"the head mask is kept: {_go_on(kept, strategy)}") from None
        if plan.kept is not None and plan.kept.path.exists():
            told = f"the cycles so far are kept in {plan.kept.path}"
            raise Interrupted(f"{told}: run the same command to go on") from None
        raise Interrupted("nothing was written") from None
    except BaseException as error:
        if kept is not None and plan.mask is None:
            kept.unlink(missing_ok=True)
        if plan.kept is not None and isinstance(error, NothingPruned):
            plan.kept.clear()  # it has ended; there is nothing to go on from
        raise
    if kept is not None and _is_kept(kept):
        kept.unlink()
    if plan.kept is not None:
        plan.kept.clear()
    if as_json:
        print_json(done.manifest)
    else:
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
    return done
