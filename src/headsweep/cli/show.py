"""What the command line prints for people: tables and a small picture of the heads."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headsweep.model.mask import HeadMask

if TYPE_CHECKING:  # torch, scipy: only for what has them already
    from headsweep.export.verify import Check
    from headsweep.judge.statistics import Rate
    from headsweep.purification.material import Sources

STYLES = {"held": "bold green", "nothing": "bold yellow", "missed": "bold red", "free": "bold"}
WIDEST = 64  # units drawn in a line; wider rows get their count only


def picture(mask: HeadMask) -> Text:
    """Return one line a layer: a filled square for a head that stays, a dot for one that went."""
    lines = Text()
    for kind, rows in (("heads", mask.heads), ("ffn", mask.ffn)):
        for layer, row in enumerate(rows):
            lines.append(f"  {kind} {layer:>2}  ", style="dim")
            for keep in row if len(row) <= WIDEST else ():
                lines.append("■ " if keep else "· ", style="cyan" if keep else "dim")
            lines.append(f" {len(row) - sum(row)} of {len(row)} pruned\n", style="dim")
    return lines


def percent(value: float) -> str:
    """Return a fraction as percent with one decimal."""
    return f"{100 * value:.1f}%"


def interval(rate: Rate | None) -> str:
    """Return a rate as ``12.3% (10.1 to 14.9)``; a dash where there is none."""
    if rate is None:
        return "-"
    return f"{percent(rate.value)} ({100 * rate.low:.1f} to {100 * rate.high:.1f})"


def purified(console: Console, manifest: Mapping[str, Any]) -> None:
    """Print what a purification did."""
    mask = HeadMask.from_json(manifest["mask"])
    count = len(manifest["pruned_units"])
    console.print(f"\n{count} of {manifest['units']} {mask.units.names} pruned", style="bold")
    console.print(picture(mask), end="")
    table = Table("accuracy on clean data", "before", "pruned", "healed and saved")
    for part in ("validation", "test"):
        if part in manifest["before"]:
            row = [manifest[stage][part]["accuracy"] for stage in ("before", "pruned", "after")]
            examples = manifest["before"][part]["examples"]
            table.add_row(f"{part} ({examples} examples)", *map(percent, row))
    console.print(table)
    seconds = manifest["seconds"]
    took = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items() if value >= 0.5)
    memory = manifest["peak_memory_mib"]
    console.print(f"{took}" + (f"; peak memory {memory:.0f} MiB" if memory else ""), style="dim")


def commands(manifest: Mapping[str, Any], out: Path, sources: Sources) -> list[str]:
    """Return what to type next: the files as they were given, fit to be pasted."""
    words = ["headsweep", "evaluate", str(out), "--data", str(sources.test or sources.data)]
    if manifest["start"] == "classifier":
        words += ["--suspect", manifest["suspect"]]
    for field in ("text", "pair", "label"):
        name = getattr(sources.columns, field)
        words += ["--column", f"{field}={name}"] if name is not None else []
    words += ["--column", "drop_empty=yes"] if sources.columns.drop_empty else []
    for data, model in sources.columns.label_map:
        words += ["--label-map", f"{data}={model}"]
    return [shlex.join(["headsweep", "verify", str(out)]), shlex.join(words)]


def next_steps(console: Console, manifest: Mapping[str, Any], out: Path, sources: Sources) -> None:
    """Print what to type next."""
    console.print("next:")
    for line in commands(manifest, out, sources):
        console.print(f"  {line}", soft_wrap=True)
    unseen = "" if sources.test else "better --data that it was not healed on; "
    told = f"  ({unseen}--triggered FILE --target LABEL for a trigger that you know)"
    console.print(told, style="dim", soft_wrap=True)


def checks(console: Console, found: list[Check]) -> None:
    """Print what was verified."""
    for check in found:
        mark = Text("ok    ", style="green") if check.passed else Text("FAILED", style="bold red")
        detail = f" ({check.detail})" if check.detail and not check.passed else ""
        console.print(Text.assemble("  ", mark, f" {check.what}{detail}"))
