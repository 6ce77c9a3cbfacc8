"""Options that commands share, and what turns them into objects."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from decimal import Decimal, DecimalException
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from headsweep.errors import UserError
from headsweep.foreign import in_json
from headsweep.progress import Progress, plain_console, reporting
from headsweep.quick import started
from headsweep.verbs.arguments import (
    ALL_COMPUTING,
    COMPUTING,
    LENGTH,
    columns_of,
    seed_of,
    standing_above,
)

out_console = plain_console()


def fraction_of(option: str, below_one: bool = False) -> Callable[[str], float]:
    """Return what reads an option's value: a fraction, ``0.02``, or a share of 100, ``2%``."""

    def read(text: str) -> float:
        said = str(text).strip()
        parts = 100 if said.endswith("%") else 1
        try:
            value = float(Decimal(said.removesuffix("%")) / parts)
        except DecimalException:
            value = math.nan
        if 0 <= value < 1 or (value == 1 and not below_one):
            return value
        near = f"{value / 100:g} or {value:g}%" if parts == 1 and 1 <= value <= 100 else ""
        raise UserError(
            f"{option} {said}: not a fraction from 0 to {'below ' if below_one else ''}1",
            f"did you mean {near}?" if near else "for example 0.02, or 2%",
        )

    return read


def _seed(value: int) -> int:
    return seed_of(value, "--seed")


def Fraction(option: str, below_one: bool = False, **more: Any) -> Any:  # noqa: N802 - stands where typer.Option does
    """Return an option that takes a fraction."""
    return typer.Option(option, parser=fraction_of(option, below_one), metavar="FRACTION", **more)


MaxDrop = Annotated[
    float | None,
    Fraction(
        "--max-drop",
        below_one=True,
        help="How far validation accuracy may fall: 0.02 (or 2%); under 250 examples, five "
        "answers (at most 0.1).",
    ),
]
MinAccuracy = Annotated[
    float | None,
    Fraction("--min-accuracy", help="Lowest validation accuracy, instead of --max-drop."),
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Folder, or name on the Hub.")]
CleanData = Annotated[str, typer.Option(help="Clean labelled data: file, folder or name:split.")]
OutFolder = Annotated[Path, typer.Option(help="Folder to write.")]
Validation = Annotated[
    str | None, typer.Option(help="Clean data that decides; else 15% of --data.")
]
LastTest = Annotated[
    str | None, typer.Option(help="Data for the last figure; else 15%, none with --validation.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out.")]
Seed = Annotated[int, typer.Option(callback=_seed, metavar="N", help="Decides everything random.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]
TaskName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="classification, multi-label, regression, token-classification or generation, where "
        "config.json does not say what the model is for.",
    ),
]
BaseModel = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Where MODEL is an adapter (LoRA): what it was trained on."),
]
AdapterFile = Annotated[
    Path | None, typer.Option(help="TOML file that describes an unknown architecture.")
]
UnitKinds = Annotated[
    str,
    typer.Option(
        help="What may be pruned: heads, ffn, or heads,ffn; ffn:N in N groups. "
        "queries: single query heads, where several share keys and values."
    ),
]


def Fields(  # noqa: N802 - stands where typer.Option does
    option: str,
    help: str,
    usual: str = "",
    metavar: str = "FIELD=VALUE",
) -> Any:
    """Return an option that fills fields, one each time it is given; ``usual``: their values."""
    return typer.Option(
        option,
        metavar=metavar,
        help=f"{help} [dim]\\[default: {usual}][/dim]" if usual else help,
    )


# What --heal fills, with the values that hold unasked. The class would load torch, so
# tests/test_options.py compares.
HEALING = (
    "epochs=4 lr=0.0002 on=clean share=0.4 attention=0.15 halvings=3 members=3 how=uniform "
    "beyond=2.0 base=None mix=0.5 lora=0 batch=0 unlearn=0.0"
)
HEALING_OF_GENERATORS = (
    "epochs=1 lr=0.0005 attention=0.0 beyond=1.5 batch=8 unlearn=1.0"  # where it differs
)
Heal = Annotated[
    list[str] | None,
    Fields(
        "--heal",
        "Field of the healing; epochs=0: none; lr is 3e-4 where nothing is pruned, twenty times as "
        f"high with lora=RANK, which trains adapters; of a generator: {HEALING_OF_GENERATORS}.",
        HEALING,
    ),
]
Compute = Annotated[list[str] | None, Fields("--compute", "How to compute.", COMPUTING)]
SearchCompute = Annotated[list[str] | None, Fields("--compute", "How to compute.", ALL_COMPUTING)]
ComputeLength = Annotated[list[str] | None, Fields("--compute", "How texts are read.", LENGTH)]
Column = Annotated[
    list[str] | None,
    Fields(
        "--column",
        "Column of the text, pair or label, else guessed; drop_empty=yes: no rows without a text.",
        metavar="FIELD=NAME",
    ),
]
TriggeredColumn = Annotated[
    list[str] | None,
    Fields(
        "--triggered-column",
        "Column of --triggered; else as in --data.",
        metavar="FIELD=NAME",
    ),
]
LabelMap = Annotated[
    list[str] | None,
    Fields(
        "--label-map",
        "A label of the data and the model's label that it means.",
        metavar="DATA=MODEL",
    ),
]
RecipeFile = Annotated[
    Path | None, typer.Option(help="TOML file with the options; what is given here wins.")
]

# Where --help shows them; all else stands first, under "Options".
for panel, options in {
    "About data and model": (
        *(Validation, LastTest, Column, TriggeredColumn, LabelMap),
        *(TaskName, BaseModel, AdapterFile),
    ),
    "About the run": (
        *(Seed, Device, Compute, SearchCompute, ComputeLength),
        *(Overwrite, AsJson, Quiet),
    ),
}.items():
    for option in options:
        get_args(option)[1].rich_help_panel = panel


def with_recipe(
    ctx: typer.Context,
    asked: Any,
    recipe: Path | None,
    kind: str,
) -> Any:
    """Return what was asked for, completed from a recipe (of a strategy or a defense)."""
    from headsweep.purification.recipe import read_recipe

    given = given_in(ctx)
    if {"max_drop", "min_accuracy"} <= given:
        raise UserError("--max-drop and --min-accuracy: there is one bound", "leave one out")
    if recipe is None:
        return asked
    renamed = {"strategy": "method", "baseline": "method"}
    given = {renamed.get(name, name) for name in given}
    return asked.over(read_recipe(recipe, kind), given)


def given_in(ctx: typer.Context) -> set[str]:
    """Return the names of the parameters that stand in the command line."""
    sources = {name: str(ctx.get_parameter_source(name)) for name in ctx.params}
    return {name for name, source in sources.items() if source.endswith("COMMANDLINE")}


def check_sources(*sources: str | Path | None) -> None:
    """Say which data is not there before anything long is imported; raises UserError."""
    from headsweep.texts.reading import check_there

    for source in sources:
        if source is not None:
            check_there(source)


def sources_of(
    data: str,
    validation: str | None,
    test: str | None,
    column: Sequence[str] | None,
    label_map: Sequence[str] | None,
) -> Any:
    """Return the data of a purification; raises UserError."""
    from headsweep.purification.material import Sources

    return Sources(data, validation, test, columns_of(column, label_map))


def progress_of(quiet: bool) -> Progress:
    """Return where to report progress: what is long begins, and all that it takes has been read."""
    started()
    return reporting(not quiet)


def check_folder(folder: Path, option: str) -> None:
    """Refuse a folder that is a file, lies below one or in a purified folder; makes nothing."""
    from headsweep.export.folders import check_apart

    check_apart(folder / "any")
    place = standing_above(folder)
    if not place.is_dir():
        raise UserError(f"{folder}: {place} is a file", f"choose a folder as {option}")


def make_folder(folder: Path, option: str) -> None:
    """Make a folder and check now that files can be written there; raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written to: {error.strerror}",
            f"choose another folder as {option}, or make room there",
        ) from error


def print_json(form: Any) -> None:
    """Print JSON for machines on standard output, in ASCII where that is not UTF-8."""
    narrow = out_console.options.ascii_only
    print(in_json(json.dumps(form, indent=1, ensure_ascii=narrow, allow_nan=False)))
