"""The command line: parse, call one function, print."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from headsweep.errors import NothingPruned, UserError, lookup

app = typer.Typer(
    name="headsweep",
    help="Take a backdoor out of a Hugging Face text classifier by pruning attention heads, "
    "knowing neither the trigger nor a clean copy of the model.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Folder, or name on the Hub.")]
Seed = Annotated[int, typer.Option(min=0, max=2**62, help="Decides everything random.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples a batch.")]
MaxLength = Annotated[int, typer.Option(min=3, help="Tokens a text, at most.")]
Precision = Annotated[
    str, typer.Option(help="Training: fp32, bf16, or auto (bf16 where the machine computes it).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
TextColumn = Annotated[str | None, typer.Option(help="Column of the text; else guessed.")]
PairColumn = Annotated[str | None, typer.Option(help="Column of the second text of a pair.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the label; else guessed.")]
DropEmpty = Annotated[bool, typer.Option("--drop-empty", help="Leave out rows without a text.")]
AdapterFile = Annotated[
    Path | None, typer.Option(help="TOML file that describes an unknown architecture.")
]
UnitKinds = Annotated[str, typer.Option(help="What may be pruned: heads, ffn, or heads,ffn.")]
FfnGroups = Annotated[
    int | None,
    typer.Option(min=0, help="FFN groups a layer (as many as heads); 0: single neurons."),
]

INTERRUPTED = 130
out_console = Console()


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "headsweep purify ./suspect --data clean.csv --out ./purified\n\n"
    "headsweep purify org/model --data imdb:train --max-drop 0.01 --out ./purified\n\n"
    "headsweep purify ./suspect --data train.tsv --validation dev.tsv --test test.tsv "
    "--strategy gradient --set step=6 --heal-epochs 0 --out ./pruned-only\n\n"
    "Exit codes: 0 done, 1 no head could be removed within the bound or the result did not "
    "verify, 2 a mistake in what was asked, 130 interrupted."
)
def purify(
    model: Model,
    data: Annotated[str, typer.Option(help="Clean labelled data: file, folder or name:split.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    validation: Annotated[str | None, typer.Option(help="Data that decides; else 15%.")] = None,
    test: Annotated[str | None, typer.Option(help="Data for the last figure; else 15%.")] = None,
    strategy: Annotated[str, typer.Option(help="See `headsweep strategies`.")] = "gradient",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Strategy field.")
    ] = None,
    max_drop: Annotated[
        float, typer.Option(help="How far validation accuracy may fall (a fraction).")
    ] = 0.02,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Lowest validation accuracy, instead of --max-drop.")
    ] = None,
    start: Annotated[
        str,
        typer.Option(help="classifier: as it is; encoder: fresh head first, as in the paper."),
    ] = "classifier",
    heal_epochs: Annotated[
        float | None,
        typer.Option(min=0, help="Fine-tuning after pruning (2; from the encoder 3); 0: none."),
    ] = None,
    heal_lr: Annotated[
        float | None, typer.Option(help="Its learning rate (3e-5; from the encoder 2e-5).")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Apply this head mask, do not search.")] = None,
    units: UnitKinds = "heads",
    ffn_groups: FfnGroups = None,
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
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Prune the heads of a suspect classifier on clean data, heal it, save it with evidence."""
    from headsweep.data import Columns
    from headsweep.export import check_free
    from headsweep.families import read_adapter
    from headsweep.heads import HeadMask
    from headsweep.healing import FineTune
    from headsweep.material import Sources
    from headsweep.pipeline import Plan
    from headsweep.settings import configure
    from headsweep.strategies import STRATEGIES

    chosen = configure(lookup(strategy, STRATEGIES, "strategy"), settings or [])
    check_free(out, overwrite)
    kept = _mask_file(out)
    if kept.exists() and (mask is None or kept.absolute() != mask.absolute()):
        raise UserError(
            f"{kept}: is there already, it may be the mask of an interrupted run",
            f"go on from it with --mask {kept}, or remove it",
        )
    if start == "encoder" and heal_epochs == 0:
        raise UserError(
            "--start encoder ends with a fresh classifier, which must be trained",
            "leave --heal-epochs 0 out",
        )
    plan = Plan(
        max_drop=max_drop,
        min_accuracy=min_accuracy,
        start=_one_of(start, ("classifier", "encoder"), "--start"),
        seed=seed,
        mask=HeadMask.from_json(_text(mask)) if mask else None,
        runtime=_runtime(device, batch_size, max_length, precision),
        adapter=read_adapter(adapter) if adapter else None,
        units=_units(units, ffn_groups),
    )
    usual = plan.healing
    assert isinstance(usual, FineTune)
    epochs = usual.epochs if heal_epochs is None else heal_epochs
    plan = dataclasses.replace(
        plan, heal=FineTune(epochs, usual.lr if heal_lr is None else heal_lr)
    )
    sources = Sources(
        data, validation, test, Columns(text_column, pair_column, label_column, drop_empty)
    )
    _run(model, sources, chosen, plan, out, overwrite, as_json, quiet, kept)


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "headsweep defend ./suspect --with pure --data clean.csv --out ./pure\n\n"
    "headsweep defend ./suspect --with fth --set lr=2e-4 --data clean.csv --out ./fth\n\n"
    "headsweep defend ./suspect --with random --set count=20 --data clean.csv --out ./control"
)
def defend(
    model: Model,
    baseline: Annotated[
        str,
        typer.Option(
            "--with", help="ft, fth, meft, pure, fine-pruning; controls: random, nothing."
        ),
    ],
    data: Annotated[str, typer.Option(help="Clean labelled data: file, folder or name:split.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    validation: Annotated[str | None, typer.Option(help="Data that decides; else 15%.")] = None,
    test: Annotated[str | None, typer.Option(help="Data for the last figure; else 15%.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Its field.")
    ] = None,
    max_drop: Annotated[
        float, typer.Option(help="How far validation accuracy may fall (a fraction).")
    ] = 0.02,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Lowest validation accuracy, instead of --max-drop.")
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
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run a baseline or a control on a suspect, for comparison with `purify`."""
    from headsweep.data import Columns
    from headsweep.defenses import DEFENSES
    from headsweep.export import check_free
    from headsweep.families import read_adapter
    from headsweep.material import Sources
    from headsweep.pipeline import Plan
    from headsweep.settings import configure

    recipe = configure(lookup(baseline, DEFENSES, "baseline"), settings or []).recipe()
    check_free(out, overwrite)
    plan = Plan(
        max_drop=max_drop,
        min_accuracy=min_accuracy,
        heal=recipe.healing,
        seed=seed,
        runtime=_runtime(device, batch_size, max_length, precision),
        units=recipe.units,
        adapter=read_adapter(adapter) if adapter else None,
    )
    columns = Columns(text_column, pair_column, label_column, drop_empty)
    sources = Sources(data, validation, test, columns)
    _run(model, sources, recipe.strategy, plan, out, overwrite, as_json, quiet)


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
    target: Annotated[str | None, typer.Option(help="The attacker's label.")] = None,
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
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    drop_empty: DropEmpty = False,
    seed: Seed = 0,
    device: Device = "auto",
    batch_size: BatchSize = 32,
    max_length: MaxLength = 128,
    precision: Precision = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure ACC, label flip rate and its relatives, with 95% intervals."""
    from headsweep.data import Columns
    from headsweep.evaluate import Files
    from headsweep.evaluate import evaluate as run
    from headsweep.families import read_adapter

    files = Files(
        data,
        triggered,
        target,
        _one_of(triggered_labels, ("true", "target"), "--triggered-labels"),
        validation,
        clean_model,
        suspect,
        Columns(text_column, pair_column, label_column, drop_empty),
    )
    runtime = _runtime(device, batch_size, max_length, precision)
    described = read_adapter(adapter) if adapter else None
    found = run(model, files, runtime, seed, _progress(quiet or as_json), described)
    if as_json:
        _print_json(dataclasses.asdict(found))
        return
    from headsweep.show import interval, percent

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
    for name, maybe, what in rows:
        if maybe is not None:
            table.add_row(name, interval(maybe), what)
    out_console.print(table)
    if found.lfr is not None and found.matched_lfr is None:
        missing = "--validation" if validation is None else "--clean-model or --suspect"
        out_console.print(
            f"no matched LFR: give {missing}. A model that merely leans away from "
            f"the target has a low LFR too (CFR here {percent(found.cfr.value)}).",  # type: ignore[union-attr]
            style="dim",
        )


@app.command(epilog="[bold]Example[/bold]\n\nheadsweep strategies --json")
def strategies(as_json: AsJson = False) -> None:
    """List strategies, baselines and controls with source, fields and defaults."""
    from headsweep.defenses import DEFENSES
    from headsweep.settings import described
    from headsweep.strategies import STRATEGIES

    listed = {"purify --strategy": STRATEGIES, "defend --with": DEFENSES}
    if as_json:
        form = {
            option: {
                name: {
                    "summary": _summary(method),
                    "source": method.source,
                    "fields": [
                        dict(zip(("name", "type", "default"), row, strict=True))
                        for row in described(method)
                    ],
                }
                for name, method in methods.items()
            }
            for option, methods in listed.items()
        }
        _print_json(form)
        return
    for option, methods in listed.items():
        table = Table(option, "what it does", "source", "fields (--set field=value)")
        for name, method in methods.items():
            rows = [f"{field}={default}  ({kind})" for field, kind, default in described(method)]
            table.add_row(name, _summary(method), method.source, "\n".join(rows), end_section=True)
        out_console.print(table)


@app.command(epilog="[bold]Example[/bold]\n\nheadsweep inspect ./suspect")
def inspect(
    model: Model,
    adapter: AdapterFile = None,
    device: Device = "auto",
    batch_size: BatchSize = 32,
    max_length: MaxLength = 128,
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Show layers, heads, key/value groups and what is pruned already; check that gates work."""
    from headsweep.families import read_adapter
    from headsweep.heads import already_pruned
    from headsweep.loading import Reading, load_suspect
    from headsweep.show import picture

    reading = Reading(adapter=read_adapter(adapter) if adapter else None)
    opened = load_suspect(model, _runtime(device, batch_size, max_length, precision), reading)
    layout, pruned = opened.anatomy.layout, already_pruned(opened.anatomy)
    rows = [
        {
            "layer": row.layer,
            "heads": row.units,
            "key_value_heads": row.units // row.group,
            "head_width": row.width,
            "pruned": [head for layer, head in pruned.pruned_heads if layer == row.layer],
        }
        for row in layout.rows
    ]
    form = {
        "model": model,
        "architecture": type(opened.model).__name__,
        "model_type": opened.model.config.model_type,
        "parameters": sum(p.numel() for p in opened.model.parameters()),
        "precision": str(opened.precision).removeprefix("torch."),
        "labels": list(opened.labels.names),
        "heads": layout.units,
        "gates_checked": True,
        "layers": rows,
    }
    if as_json:
        _print_json(form)
        return
    out_console.print(
        f"{form['architecture']}, {form['parameters'] / 1e6:.1f}M parameters, saved in "  # type: ignore[operator]
        f"{form['precision']}, labels {', '.join(opened.labels.names)}",
        highlight=False,
    )
    first = rows[0]
    out_console.print(
        f"{len(rows)} layers x {first['heads']} heads of width {first['head_width']}, "
        f"{first['key_value_heads']} key/value heads a layer; gates checked",
        highlight=False,
    )
    out_console.print(picture(pruned), end="")


@app.command(epilog="[bold]Example[/bold]\n\nheadsweep verify ./purified")
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder `purify` wrote.")],
    as_json: AsJson = False,
) -> None:
    """Check the weights of a purified folder against its manifest."""
    from headsweep.export import verify as run

    found = run(folder)
    if as_json:
        _print_json([dataclasses.asdict(check) for check in found])
    else:
        from headsweep import show

        show.checks(out_console, found)
    if not all(check.passed for check in found):
        raise typer.Exit(1)


@app.command(epilog="[bold]Example[/bold]\n\nheadsweep demo --out ./demo-out")
def demo(
    out: Annotated[Path | None, typer.Option(help="Keep the models in this folder.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    batch_size: BatchSize = 32,
    max_length: MaxLength = 128,
    precision: Precision = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Plant a backdoor in a small real model, purify it, and show before and after."""
    from headsweep.demo import run
    from headsweep.demo import show as show_demo

    runtime = _runtime(device, batch_size, max_length, precision)
    report = run(runtime, seed, _progress(quiet or as_json), out, overwrite)
    if as_json:
        _print_json(report.to_json())
    else:
        show_demo(out_console, report)


class Interrupted(Exception):  # noqa: N818 - not an error of ours
    """Ctrl-C, with what is kept."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; map every outcome to its exit code."""
    errors = Console(stderr=True)
    try:
        typer.main.get_command(app).main(arguments, prog_name="headsweep")
        code = 0
    except (UserError, NothingPruned) as error:
        errors.print(f"headsweep: {error}", markup=False, highlight=False, soft_wrap=True)
        code = 2 if isinstance(error, UserError) else 1
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            errors.print("headsweep: interrupted: nothing was written")
        raise
    except (KeyboardInterrupt, Interrupted) as error:
        kept = str(error) or "nothing was written"
        errors.print(f"headsweep: interrupted: {kept}", markup=False, soft_wrap=True)
        code = INTERRUPTED
    sys.exit(code)


def _mask_file(out: Path) -> Path:
    out = out.absolute()
    return out.with_name(f"{out.name}.head-mask.json")


def _is_kept(path: Path) -> bool:
    """Tell whether a mask file is one that an interrupted run left behind."""
    from headsweep.pipeline import KEPT

    return path.exists() and f'"{KEPT}"' in path.read_text(encoding="utf-8")


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
) -> None:
    """Run the pipeline, save, print; exit 1 when the result does not verify."""
    from headsweep import show
    from headsweep.pipeline import purify as run

    try:
        done = run(
            model, sources, strategy, plan, progress=_progress(quiet or as_json), keep_mask=kept
        )
        done.save(out, overwrite)
    except KeyboardInterrupt:
        if kept is not None and _is_kept(kept):
            raise Interrupted(
                f"the head mask is kept: run the same command with --mask {kept} to go on"
            ) from None
        raise Interrupted("nothing was written") from None
    except BaseException:
        if kept is not None and plan.mask is None:
            kept.unlink(missing_ok=True)
        raise
    if kept is not None and _is_kept(kept):
        kept.unlink()
    if as_json:
        _print_json(done.manifest)
    else:
        show.purified(out_console, done.manifest)
        show.checks(out_console, done.checks)
        out_console.print(f"\nwritten: {out}", highlight=False, soft_wrap=True)
        out_console.print(
            "Pruning can fail: this is no proof that the model is clean. Judge it on triggers of "
            "your own with `headsweep evaluate`.",
            style="dim",
        )
    if not done.verified:
        raise typer.Exit(1)


def _units(kinds: str, ffn_groups: int | None) -> Any:
    from headsweep.heads import Units

    asked = {part.strip() for part in kinds.split(",") if part.strip()}
    for part in asked:
        _one_of(part, ("heads", "ffn"), "--units")
    return Units("heads" in asked, "ffn" in asked, ffn_groups)


def _one_of(value: str, known: tuple[str, ...], option: str) -> Any:
    return lookup(value, {name: name for name in known}, f"value of {option}")


def _runtime(device: str, batch_size: int, max_length: int, precision: str) -> Any:
    from headsweep.loading import Runtime

    runtime = Runtime(device, batch_size, max_length, precision)
    runtime.trains_in_bf16()  # says now what would fail later
    return runtime


def _progress(quiet: bool) -> Any:
    from headsweep.progress import Silent, Terminal

    return Silent() if quiet else Terminal()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _summary(method: Any) -> str:
    return (method.__doc__ or "").strip().split("\n")[0]


def _print_json(form: Any) -> None:
    print(json.dumps(form, indent=1, ensure_ascii=False, allow_nan=False))


if __name__ == "__main__":
    main()
