"""Options that commands share, and what turns them into objects."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from decimal import Decimal, DecimalException
from pathlib import Path
from typing import Annotated, Any

import typer

from headsweep import bounded
from headsweep.errors import UserError, lookup
from headsweep.foreign import in_json
from headsweep.progress import Progress, plain_console, reporting

out_console = plain_console()
MOST_SEED = 2**62


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
    """Return a seed that every generator takes; raises UserError."""
    if not 0 <= value <= MOST_SEED:
        raise UserError(f"--seed {value}: not a whole number from 0 to {MOST_SEED}")
    return value


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
CleanData = Annotated[str, typer.Option(help="Clean labelled data: file, folder or name:split.")]
OutFolder = Annotated[Path, typer.Option(help="Folder to write.")]
Validation = Annotated[str | None, typer.Option(help="Data that decides; else 15%.")]
LastTest = Annotated[str | None, typer.Option(help="Data for the last figure; else 15%.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out.")]
Seed = Annotated[int, typer.Option(callback=_seed, metavar="N", help="Decides everything random.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
AdapterFile = Annotated[
    Path | None, typer.Option(help="TOML file that describes an unknown architecture.")
]
UnitKinds = Annotated[
    str, typer.Option(help="What may be pruned: heads, ffn, or heads,ffn; ffn:N in N groups.")
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


# What --heal and --compute fill, with the values that hold unasked. The classes would load torch,
# so tests/test_options.py compares.
HEALING = "epochs=4 lr=0.00015 on=clean share=0.4 attention=0.15 halvings=3"
COMPUTING = "batch_size=32 max_length=128 precision=auto"
ALL_COMPUTING = f"{COMPUTING} measure_in=auto cache_mib=None"  # the last two: of a search
LENGTH = "max_length=128"
Heal = Annotated[
    list[str] | None, Fields("--heal", "Field of the healing; epochs=0: none.", HEALING)
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
        "The same of --triggered; else as in --data.",
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


def units_of(kinds: str) -> Any:
    """Return the units that ``--units`` names; raises UserError."""
    from headsweep.model.mask import Units
    from headsweep.settings import fitting

    asked = dict(part.strip().partition(":")[::2] for part in kinds.split(",") if part.strip())
    for part in asked:
        one_of(part, ("heads", "ffn"), "--units")
    if asked.get("heads"):
        raise UserError(f"--units {kinds}: heads have no groups", "--units heads,ffn:N")
    groups = asked.get("ffn")
    count = fitting(groups, int, "--units: the number of FFN groups") if groups else None
    return Units("heads" in asked, "ffn" in asked, count)


def check_sources(*sources: str | Path | None) -> None:
    """Say which data is not there before anything long is imported; raises UserError."""
    from headsweep.texts.reading import check_there

    for source in sources:
        if source is not None:
            check_there(source)


def columns_of(column: Sequence[str] | None, label_map: Sequence[str] | None) -> Any:
    """Return which columns hold what, and the labels' map; raises UserError."""
    from headsweep.settings import changed
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
    return changed(Columns(label_map=tuple(pairs.values())), column or (), "--column")


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


def plan_of(seed: int, device: str, compute: Sequence[str] | None, adapter: Path | None) -> Any:
    """Return how a purification is run; raises UserError."""
    from headsweep.model.families import read_adapter
    from headsweep.purification.plan import Plan

    runtime = runtime_of(device, compute, ALL_COMPUTING)
    return Plan(seed, runtime, read_adapter(adapter) if adapter else None)


def triggered_columns_of(triggered: str | None, column: Sequence[str] | None) -> Any:
    """Return the columns named for the triggered file; raises UserError where there is none."""
    from headsweep.settings import changed
    from headsweep.texts.reading import Columns

    if triggered is None and column:
        raise UserError(
            "the columns of --triggered are named, but no such file", "--triggered FILE"
        )
    return changed(Columns(prefix="triggered-"), column or (), "--triggered-column", ["drop_empty"])


def one_of(value: str, known: tuple[str, ...], option: str) -> Any:
    """Return the value if it is known; raises UserError with a suggestion."""
    return lookup(value, {name: name for name in known}, f"value of {option}")


def runtime_of(device: str, compute: Sequence[str] | None, fields: str = COMPUTING) -> Any:
    """Return where and how to compute; raises UserError now for what would fail later.

    ``fields``: those that a command takes, as its help shows them.
    """
    from headsweep.model.runtime import Runtime
    from headsweep.settings import changed, offered

    known = {shown.partition("=")[0] for shown in fields.split()}
    less = [name for name in offered(Runtime) if name not in known]
    runtime: Any = changed(Runtime(device), compute or (), "--compute", less)
    _check_device(runtime)
    runtime.trains_in_bf16()
    if fields == ALL_COMPUTING:
        runtime.measures_in_bf16()
        runtime.cache_bytes  # noqa: B018 - raises where it does not fit
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


def progress_of(quiet: bool) -> Progress:
    """Return where to report progress."""
    return reporting(not quiet)


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
