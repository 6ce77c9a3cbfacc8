"""Options that commands share, and what turns them into objects."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Callable
from decimal import Decimal, DecimalException
from pathlib import Path
from typing import Annotated, Any

import typer

from headsweep import bounded
from headsweep.errors import UserError, lookup
from headsweep.foreign import in_json
from headsweep.progress import Progress, Silent, Terminal, plain_console

out_console = plain_console()
COLUMNS, COMPUTING, HEALING = "Columns of the data", "Computing", "Healing"  # headings of --help


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


def Fraction(option: str, below_one: bool = False, **more: Any) -> Any:  # noqa: N802 - stands where typer.Option does
    """Return an option that takes a fraction."""
    return typer.Option(option, parser=fraction_of(option, below_one), metavar="FRACTION", **more)


MaxDrop = Annotated[
    float | None,
    Fraction(
        "--max-drop",
        below_one=True,
        help="How far validation accuracy may fall (0.02, or 2%; of under 250 examples five "
        "answers, at most 0.1).",
    ),
]
MinAccuracy = Annotated[
    float | None,
    Fraction("--min-accuracy", help="Lowest validation accuracy, instead of --max-drop."),
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Folder, or name on the Hub.")]
Seed = Annotated[int, typer.Option(min=0, max=2**62, help="Decides everything random.")]
Device = Annotated[
    str, typer.Option(rich_help_panel=COMPUTING, help="cpu, cuda, cuda:1, ... or auto.")
]
BatchSize = Annotated[int, typer.Option(min=1, rich_help_panel=COMPUTING, help="Examples a batch.")]
MaxLength = Annotated[
    int, typer.Option(min=3, rich_help_panel=COMPUTING, help="Tokens a text, at most.")
]
Precision = Annotated[
    str,
    typer.Option(
        rich_help_panel=COMPUTING,
        help="Training: fp32, bf16, or auto (bf16 where the machine computes it).",
    ),
]
MeasureIn = Annotated[
    str,
    typer.Option(
        rich_help_panel=COMPUTING,
        help="Search: fp32; bf16, with answers near the border taken again in fp32; or auto.",
    ),
]
CacheMib = Annotated[
    int | None,
    typer.Option(
        min=0,
        rich_help_panel=COMPUTING,
        help="Memory for what masks share, in MiB; else 512, or a quarter of what is free.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
TextColumn = Annotated[
    str | None, typer.Option(rich_help_panel=COLUMNS, help="Column of the text; else guessed.")
]
PairColumn = Annotated[
    str | None, typer.Option(rich_help_panel=COLUMNS, help="Column of the second text of a pair.")
]
LabelColumn = Annotated[
    str | None, typer.Option(rich_help_panel=COLUMNS, help="Column of the label; else guessed.")
]
DropEmpty = Annotated[
    bool,
    typer.Option("--drop-empty", rich_help_panel=COLUMNS, help="Leave out rows without a text."),
]
LabelMap = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DATA=MODEL",
        rich_help_panel=COLUMNS,
        help="A label of the data and the model's label that it means (may be repeated).",
    ),
]
TriggeredTextColumn = Annotated[
    str | None,
    typer.Option(rich_help_panel=COLUMNS, help="The same of --triggered; else as in --data."),
]
TriggeredPairColumn = Annotated[
    str | None,
    typer.Option(rich_help_panel=COLUMNS, help="The same of --triggered; else as in --data."),
]
TriggeredLabelColumn = Annotated[
    str | None,
    typer.Option(rich_help_panel=COLUMNS, help="The same of --triggered; else as in --data."),
]
AdapterFile = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=COMPUTING, help="TOML file that describes an unknown architecture."
    ),
]
UnitKinds = Annotated[str, typer.Option(help="What may be pruned: heads, ffn, or heads,ffn.")]
FfnGroups = Annotated[
    int | None,
    typer.Option(min=0, help="FFN groups a layer (about as many as heads); 0: single neurons."),
]

RecipeFile = Annotated[
    Path | None, typer.Option(help="TOML file with the options; what is given here wins.")
]


def with_recipe(
    ctx: typer.Context,
    asked: Any,
    recipe: Path | None,
    kind: str,
    more: dict[str, Any] | None = None,
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
    return asked.over(read_recipe(recipe, kind, more), given)


def given_in(ctx: typer.Context) -> set[str]:
    """Return the names of the parameters that stand in the command line."""
    sources = {name: str(ctx.get_parameter_source(name)) for name in ctx.params}
    return {name for name, source in sources.items() if source.endswith("COMMANDLINE")}


def units_of(kinds: str, ffn_groups: int | None) -> Any:
    """Return the units that ``--units`` and ``--ffn-groups`` name; raises UserError."""
    from headsweep.model.mask import Units

    asked = {part.strip() for part in kinds.split(",") if part.strip()}
    for part in asked:
        one_of(part, ("heads", "ffn"), "--units")
    if ffn_groups is not None and "ffn" not in asked:
        raise UserError("--ffn-groups: FFN groups are not among the units", "add --units heads,ffn")
    return Units("heads" in asked, "ffn" in asked, ffn_groups)


def check_sources(*sources: str | Path | None) -> None:
    """Say which data is not there before anything long is imported; raises UserError."""
    from headsweep.texts.reading import check_there

    for source in sources:
        if source is not None:
            check_there(source)


def columns_of(
    text: str | None, pair: str | None, label: str | None, drop_empty: bool, label_map: Any
) -> Any:
    """Return which columns hold what, and the labels' map; raises UserError."""
    from headsweep.texts.reading import Columns
    from headsweep.texts.split import label_text

    pairs: dict[str, tuple[str, str]] = {}
    for entry in label_map or ():
        old, equals, new = (part.strip() for part in entry.rpartition("="))
        if not (equals and old and new):
            raise UserError(
                f"--label-map {entry}: is not of the form DATA=MODEL",
                "a label of the data, then the model's, for example pos=positive",
            )
        if pairs.setdefault(label_text(old).casefold(), (old, new))[1] != new:
            raise UserError(f"--label-map: '{old}' is mapped twice", "leave one out")
    return Columns(text, pair, label, drop_empty, tuple(pairs.values()))


def triggered_columns_of(
    triggered: str | None, text: str | None, pair: str | None, label: str | None
) -> Any:
    """Return the columns named for the triggered file; raises UserError where there is none."""
    from headsweep.texts.reading import Columns

    if triggered is None and any((text, pair, label)):
        raise UserError(
            "the columns of --triggered are named, but no such file", "--triggered FILE"
        )
    return Columns(text, pair, label, prefix="triggered-")


def one_of(value: str, known: tuple[str, ...], option: str) -> Any:
    """Return the value if it is known; raises UserError with a suggestion."""
    return lookup(value, {name: name for name in known}, f"value of {option}")


def runtime_of(device: str, batch_size: int, max_length: int, precision: str) -> Any:
    """Return where and how to compute; raises UserError now for what would fail later."""
    from headsweep.model.runtime import Runtime

    runtime = Runtime(device, batch_size, max_length, precision)
    _check_device(runtime)
    runtime.trains_in_bf16()
    return runtime


def _check_device(runtime: Any) -> None:
    """Raise UserError, which says what is here, for a device that is not."""
    try:
        runtime.torch_device  # noqa: B018 - raises
    except UserError as error:
        known = re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", runtime.device)
        what = error.what if known else f"device '{runtime.device}' cannot be used: no such name"
        raise UserError(
            what, f"use cuda, mps, cpu or auto; here there is {', '.join(_devices())}"
        ) from error


def _devices() -> list[str]:
    import torch

    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def search_runtime(runtime: Any, measure_in: str, cache_mib: int | None) -> Any:
    """Return the runtime with how a search measures; raises UserError for what would fail later."""
    from dataclasses import replace

    made = replace(runtime, measure_in=measure_in, cache_mib=cache_mib)
    made.measures_in_bf16()
    made.cache_bytes  # noqa: B018 - raises where it does not fit
    return made


def progress_of(quiet: bool) -> Progress:
    """Return where to report progress."""
    return Silent() if quiet else Terminal()


def text_of(path: Path, fix: str = "") -> str:
    """Return what a file holds; raises UserError, with that fix."""
    return bounded.text_of(path, fix=fix)


def mask_in(path: Path) -> Any:
    """Return a file's head mask, how it was found where that is kept with it, and its path.

    Raises:
        UserError: there is none in it.

    """
    from headsweep.model.mask import MASK_FORMAT, HeadMask
    from headsweep.purification.interrupted import Found

    fix = f"a mask is JSON of the format {MASK_FORMAT}, as under 'mask' in headsweep.json"
    text = text_of(path, fix)
    try:
        form = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a head mask: it is not JSON", fix) from error
    if not isinstance(form, dict) or form.get("format") != MASK_FORMAT:
        raise UserError(f"{path}: not a head mask", fix)
    try:
        return HeadMask.from_json(form), Found.of(text), str(path)
    except UserError as error:
        raise UserError(f"{path}: {error.what}", error.fix) from error


def check_file(out: Path, overwrite: bool) -> None:
    """Check, making nothing, that a file can be written when the work is done; raises UserError."""
    if out.is_dir() or not out.name:
        raise UserError(f"{out}: is a folder", "name a file")
    if out.exists() and not overwrite:
        raise UserError(f"{out}: is there already", "choose another, or --overwrite")
    standing = _standing(out.absolute().parent)
    if not standing.is_dir() or not os.access(standing, os.W_OK):
        raise UserError(f"{out}: cannot be written in {standing}", "choose another place")


def _standing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def check_folder(folder: Path, option: str) -> None:
    """Refuse a folder that is a file, or that would lie below one; makes nothing."""
    standing = _standing(folder)
    if not standing.is_dir():
        raise UserError(f"{folder}: {standing} is a file", f"choose a folder as {option}")


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
    """Print JSON for machines on standard output."""
    print(in_json(json.dumps(form, indent=1, ensure_ascii=False, allow_nan=False)))
