"""What the command line prints for people: tables and a small picture of the heads."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headsweep.model.mask import HeadMask

if TYPE_CHECKING:  # torch, scipy: only for what has them already
    from headsweep.export.verify import Check
    from headsweep.judge.statistics import Rate
    from headsweep.purification.bound import Allowance
    from headsweep.purification.material import Sources

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


@dataclass(frozen=True)
class Verdict:
    """What came of a purification.

    Attributes:
        told: in words, one line.
        style: how a terminal shows it.
        mend: what to do about it; empty where there is nothing to mend.

    """

    told: str
    style: str
    mend: str = ""


HELD, NOTHING, MISSED = "bold green", "bold yellow", "bold red"


def verdict(manifest: Mapping[str, Any], out: Path) -> Verdict:
    """Return whether the bound was held, and whether anything was removed at all."""
    from headsweep.purification.bound import Allowance

    before, after = manifest["before"]["validation"], manifest["after"]["validation"]
    change = _change(before["right"] - after["right"], before["examples"])
    nothing = "" if manifest["pruned_units"] else "nothing removed; "
    failed = [check["what"] for check in manifest["checks"] if not check["passed"]]
    if not manifest["bound"]["binds"]:
        told, style = f"{nothing}no bound on accuracy: {change}", NOTHING if nothing else "bold"
    else:
        lowest = manifest["bound"]["min_accuracy"]
        bound = Allowance(lowest, before["right"], before["examples"])
        told = f"{change}, {bound.allowed} allowed ({bound.points}){_unasked(manifest['bound'])}"
        if after["right"] < bound.need:
            told = f"{nothing}bound not held: {told}"
            return Verdict(told, MISSED, _mend(bound, after["right"]))
        told, style = f"{nothing}bound held: {told}", NOTHING if nothing else HELD
    if failed:
        return Verdict(f"{told}; but not so: {failed[0]}", MISSED, f"do not use {out}, report it")
    return Verdict(told, style)


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


def _change(lost: int, examples: int) -> str:
    if not lost:
        return f"0 of {examples} validation answers lost"
    points = f"{100 * abs(lost) / examples:.1f} points"
    return (
        f"{abs(lost)} of {examples} validation answers {'lost' if lost > 0 else 'won'} ({points})"
    )


def _unasked(bound: Mapping[str, Any]) -> str:
    """Return that more than usual was allowed, of so few answers, since nobody said how much."""
    from headsweep.purification.bound import USUAL_DROP

    wider = not bound.get("asked", True) and (bound.get("max_drop") or 0.0) > USUAL_DROP
    return ", as no bound was asked for" if wider else ""


def _mend(bound: Allowance, right: int) -> str:
    """Return what to change where the bound was missed."""
    from headsweep.purification.bound import one_of_these

    if not bound.worth_healing_again(right):
        return bound.mended(cut_off=True)
    wider = math.ceil(100 * (bound.right - right) / bound.examples) / 100
    ways = ["a lower learning rate of healing", "more clean rows"]
    return f"{one_of_these(ways + [f'--max-drop {wider:g}'] * (wider < 0.5))}"


def tried(console: Console, record: Mapping[str, Any]) -> None:
    """Print what ``auto`` tried, on which canaries, and why it chose."""
    for canary in record["canaries"]:
        console.print(
            f"canary {canary['family']} into '{canary['target']}': planted at "
            f"{100 * canary['excess_lfr']:.0f} points of excess flips",
            style="dim",
        )
    if record["tried"]:
        table = Table("candidate", "excess points left", "accuracy", "seconds")
        for row in record["tried"]:
            mine = row["told"] == record["chosen"]["told"]
            took = sum(one["seconds"] for one in row["canaries"])
            cells = f"{100 * row['excess_lfr']:+.1f}", f"{-100 * row['drop']:+.1f}", f"{took:.0f}"
            table.add_row(row["told"], *cells, style="bold" if mine else None)
        console.print(table)
    console.print(f"chosen: {record['chosen']['told']}: {record['why']}", soft_wrap=True)


def checks(console: Console, found: list[Check]) -> None:
    """Print what was verified."""
    for check in found:
        mark = Text("ok    ", style="green") if check.passed else Text("FAILED", style="bold red")
        detail = f" ({check.detail})" if check.detail and not check.passed else ""
        console.print(Text.assemble("  ", mark, f" {check.what}{detail}"))
