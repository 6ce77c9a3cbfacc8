"""Arguments of Python and options of the command line, turned into objects by one rule.

Fields are given as ``field=value``, as the command line has them, or by name in a dict; where there
is an object for it (``Columns``, ``Runtime``, ``Units``, ``Adapter``), that is taken as it is. What
computes is imported inside functions: the command line looks at its options before it loads torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headsweep.drafts import placed
from headsweep.errors import UserError, lookup, shown
from headsweep.settings import Settings, fitting

if TYPE_CHECKING:  # they cost what computes costs
    from headsweep.model.families import Adapter
    from headsweep.model.loading import Suspect
    from headsweep.model.runtime import Runtime
    from headsweep.purification.plan import Plan
    from headsweep.texts.reading import Columns

MOST_SEED = 2**62
Fields = Mapping[str, Any] | Sequence[str] | str | None
"""Values by field, as a dict or each as ``field=value``; None: none."""
# What `compute` fills, with the values that hold unasked. The class would load torch, so
# tests/test_options.py compares.
COMPUTING = "batch_size=32 max_length=128 precision=auto"
ALL_COMPUTING = f"{COMPUTING} measure_in=auto cache_mib=None jobs=None"  # of a search and a soup
LENGTH = "max_length=128"


def one_of(value: Any, known: tuple[str, ...], option: str) -> Any:
    """Return the value if it is known; raises UserError with a suggestion."""
    return lookup(str(value), {name: name for name in known}, f"value of {option}")


def fields_of(value: Any, argument: str) -> Settings:
    """Return values by field: a dict, or each as ``field=value``; raises UserError."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Mapping | list | tuple) and all(isinstance(one, str) for one in value):
        return value
    raise UserError(
        f"{argument} cannot be {shown(value)}",
        "it takes values by field, as {'epochs': 2}, or each as field=value",
    )


def names_of(value: Any, argument: str) -> tuple[str, ...]:
    """Return names: a list of them, or one text with commas between; raises UserError."""
    found: tuple[str, ...] = fitting(value or (), tuple[str, ...], argument)
    return found


def seed_of(value: Any, option: str = "seed") -> int:
    """Return a seed that every generator takes; raises UserError."""
    seed: int = fitting(value, int, option)
    if not 0 <= seed <= MOST_SEED:
        raise UserError(f"{option} {seed}: not a whole number from 0 to {MOST_SEED}")
    return seed


def columns_of(column: Any, label_map: Fields) -> Columns:
    """Return which columns hold what, and the labels' map; raises UserError."""
    from headsweep.settings import changed
    from headsweep.texts.reading import Columns
    from headsweep.texts.split import label_text

    if isinstance(column, Columns):
        if label_map:
            raise UserError("label_map: Columns have one of their own", "Columns(label_map=...)")
        return column
    pairs: dict[str, tuple[str, str]] = {}
    for entry, old, new in _label_pairs(label_map):
        if not (old and new):
            raise UserError(
                f"--label-map {entry}: is not of the form DATA=MODEL",
                "a label of the data, then the model's, for example pos=positive",
            )
        if pairs.setdefault(label_text(old).casefold(), (old, new))[1] != new:
            raise UserError(f"--label-map: '{old}' is mapped twice", "leave one out")
    usual = Columns(label_map=tuple(pairs.values()))
    return changed(usual, fields_of(column, "column"), "--column")


def _label_pairs(label_map: Fields) -> list[tuple[str, str, str]]:
    """Return every entry of a labels' map as it was given, with its two sides."""
    if isinstance(label_map, Mapping):
        return [(f"{old}={new}", str(old), str(new)) for old, new in label_map.items()]
    parted = [(entry, entry.rpartition("=")) for entry in fields_of(label_map, "label_map")]
    return [(entry, old.strip(), new.strip()) for entry, (old, _, new) in parted]


def triggered_columns_of(triggered: Any, column: Any) -> Columns:
    """Return the columns named for the triggered texts; raises UserError where they have none."""
    from headsweep.settings import changed
    from headsweep.texts.reading import Columns
    from headsweep.texts.split import Split

    if triggered is None and column:
        raise UserError(
            "the columns of --triggered are named, but no such file", "--triggered FILE"
        )
    if isinstance(triggered, Split) and column:
        raise UserError(
            "triggered_column: columns are for files and rows, and triggered is a Split, which has "
            "been read already",
            "leave triggered_column out, or give a file or rows as triggered",
        )
    given = fields_of(column, "triggered_column")
    return changed(Columns(prefix="triggered-"), given, "--triggered-column", ["drop_empty"])


def adapter_of(adapter: Any) -> Adapter | None:
    """Return how an unknown architecture is laid out: from a TOML file, or as it is given."""
    from headsweep.model.families import Adapter, read_adapter

    if adapter is None or isinstance(adapter, Adapter):
        return adapter
    return read_adapter(Path(fitting(adapter, Path, "adapter")))


def plan_of(seed: Any, device: Any, compute: Any, adapter: Any, base_model: Any = None) -> Plan:
    """Return how a purification is run; raises UserError."""
    from headsweep.purification.plan import Plan

    runtime = runtime_of(device, compute, ALL_COMPUTING)
    base = base_of(base_model)
    return Plan(seed_of(seed), runtime, adapter_of(adapter), base_model=base)


def base_of(base_model: Any) -> str | None:
    """Return the model that a suspect is an adapter of: a folder, or a name on the Hub."""
    if base_model is None or isinstance(base_model, str | Path):
        return None if base_model is None else str(base_model)
    raise UserError(
        f"base_model cannot be of the type {type(base_model).__name__}",
        "give a folder, or a name on the Hub",
    )


def runtime_of(device: Any, compute: Any, fields: str = COMPUTING) -> Runtime:
    """Return where and how to compute; raises UserError now for what would fail later.

    Args:
        device: a torch device, or ``auto``.
        compute: values by field; a ``Runtime`` is taken as it is, its device too.
        fields: those that a command takes, as its help shows them.

    """
    from headsweep.model.runtime import Runtime
    from headsweep.settings import changed, offered

    known = {shown.partition("=")[0] for shown in fields.split()}
    less = [name for name in offered(Runtime) if name not in known]
    if isinstance(compute, Runtime):
        runtime = compute
    else:
        settings = fields_of(compute, "compute")
        runtime = changed(Runtime(device), settings, "--compute", less)
    _check_device(runtime)
    runtime.trains_in_bf16()
    if fields == ALL_COMPUTING:
        runtime.measures_in_bf16()
        runtime.cache_bytes  # noqa: B018 - raises where it does not fit
    return runtime


def opened(
    model: Any,
    runtime: Runtime,
    adapter: Any = None,
    tokenizer: Any = None,
    argument: str = "model",
    *,
    classifier: bool = True,
    task: str | None = None,
    base_model: Any = None,
    frozen: bool = False,
) -> Suspect:
    """Return a model ready to be measured: from a folder or the Hub, or one in memory.

    Args:
        model: a folder, a name on the Hub, a purified model, or a loaded classifier.
        runtime: where to put it.
        adapter: as for ``adapter_of``.
        tokenizer: of a loaded classifier.
        argument: what the model is called, for messages.
        classifier: whether it must be one; else it is for whatever its configuration says.
        task: the name of what it is for, where its configuration leaves that open.
        base_model: the model that it is an adapter of.
        frozen: it is passed texts and no more, so that its weights may be held narrow.

    Raises:
        UserError: whatever makes it unusable.

    """
    from headsweep.model.loading import Reading, Suspect
    from headsweep.purification.material import open_suspect
    from headsweep.texts.kinds import task_of

    reading = Reading(adapter=adapter_of(adapter), base_model=base_of(base_model), frozen=frozen)
    if classifier:
        return open_suspect(in_memory(model, argument), reading, runtime, tokenizer)
    one = measurable(model, runtime, argument)
    if isinstance(one, Suspect) and not one.anatomy.sites:  # compact: there is nothing to look for
        return replace(one, task=task_of(one.model.config, [type(one.model).__name__], task))
    return open_suspect(one, replace(reading, task=task), runtime, tokenizer)


def measurable(model: Any, runtime: Runtime, argument: str = "model") -> Any:
    """Return a model as ``in_memory`` does; a compact one that cannot be pruned is opened."""
    from headsweep.export.compact import measurable as cut_unevenly

    one = in_memory(model, argument)
    found = cut_unevenly(one) if isinstance(one, str | Path) else None
    if found is None:
        return one
    found.model.to(runtime.torch_device)  # type: ignore[arg-type]
    return found


def in_memory(model: Any, argument: str = "model") -> Any:
    """Return a model as it is, the one inside a ``Purified``; raises UserError for what is none."""
    from transformers import PreTrainedModel

    from headsweep.export.compact import UNEVEN
    from headsweep.model.joined import MERGED, has_adapters
    from headsweep.model.loading import Suspect
    from headsweep.purification.purified import Purified

    if isinstance(model, Purified):
        return model.suspect
    if has_adapters(model):
        raise UserError(
            f"{argument}: the model has adapters of peft",
            f"merge them, {MERGED}; or give the adapter's folder, and its base as base_model",
        )
    folder = getattr(model, UNEVEN, None)
    if folder is not None:
        raise UserError(
            f"{argument}: a compact model of other numbers of heads in other layers is measured "
            "from its folder",
            f"give {folder!r} in the place of what headsweep.load made of it",
        )
    if isinstance(model, str | Path | Suspect | PreTrainedModel):
        return model
    raise UserError(
        f"{argument} cannot be of the type {type(model).__name__}",
        "it takes a folder, a name on the Hub, a purified model, or a loaded classifier",
    )


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


def check_file(
    out: Path, overwrite: bool, reads: Iterable[object] = (), folder: Path | None = None
) -> None:
    """Check, making nothing, that a file can be written when the work is done; raises UserError.

    Args:
        out: the file; behind a link it is what the link points to that is written.
        overwrite: it may be there already.
        reads: what the run reads, files among it: they are not replaced.
        folder: what the run writes beside, to be verified: only a page may lie in it.

    """
    from headsweep.export.folders import check_apart, stored

    if out.is_dir() or not out.name:
        raise UserError(f"{out}: is a folder", "name a file")
    if out.exists() and not overwrite:
        raise UserError(f"{out}: is there already", "choose another, or --overwrite")
    place = placed(out).resolve()
    above = (place, *place.parents) if out.exists() else (place,)  # a new file harms no folder
    if any(one in above for one in map(Path.resolve, stored(reads))):
        raise UserError(f"{out}: is read here and would be replaced", "choose another file")
    check_apart(out, folder)
    place = standing_above(placed(out).parent)
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"{out}: cannot be written in {place}", "choose another place")


def refuse_unused(asked: Mapping[str, object], why: str, fix: str = "leave out {}") -> None:
    """Refuse an option that would change nothing; raises UserError.

    Args:
        asked: by option, whether it was given where it has no use.
        why: it has none, with ``{}`` for the option.
        fix: what to do, likewise.

    """
    for option in (name for name, in_vain in asked.items() if in_vain):
        raise UserError(why.format(option), fix.format(option))


def standing_above(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
