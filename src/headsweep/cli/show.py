"""What the command line prints for people: tables and a small picture of the heads."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headsweep.export.probes import probes_told
from headsweep.model.mask import SHORT, HeadMask

if TYPE_CHECKING:  # torch, scipy: only for what has them already
    from headsweep.export.verify import Check
    from headsweep.judge.generated import Generated
    from headsweep.judge.statistics import Rate
    from headsweep.purification.material import Sources

STYLES = {"held": "bold green", "nothing": "bold yellow", "missed": "bold red", "free": "bold"}
WIDEST = 64  # units drawn in a line; wider rows get their count only


def picture(mask: HeadMask) -> Text:
    """Return one line a layer: a filled square for a unit that stays, a dot for one that went."""
    lines = Text()
    for kind, rows in mask.kinds.items():
        for layer, row in enumerate(rows):
            lines.append(f"  {SHORT[kind]} {layer:>2}  ", style="dim")
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
    console.print(f"\n{count} of {manifest['units']} {mask.names} pruned", style="bold")
    console.print(picture(mask), end="")
    table = Table("accuracy on clean data", "before", "pruned", "healed and saved")
    for part in ("validation", "test"):
        if part in manifest["before"]:
            row = [manifest[stage][part]["accuracy"] for stage in ("before", "pruned", "after")]
            examples = manifest["before"][part]["examples"]
            table.add_row(f"{part} ({examples} examples)", *map(percent, row))
    console.print(table)
    _generated(console, manifest)
    seconds = manifest["seconds"]
    took = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items() if value >= 0.5)
    memory = manifest["peak_memory_mib"]
    console.print(f"{took}" + (f"; peak memory {memory:.0f} MiB" if memory else ""), style="dim")


def _generated(console: Console, manifest: Mapping[str, Any]) -> None:
    """Print the figures of a generator beside its accuracy, and what that is."""
    if "generation" not in manifest:
        return
    before, after = (manifest["generation"][stage] for stage in ("before", "after"))
    table = Table("clean answers", "before", "healed and saved", "rise")
    for part in before:
        low, high = (stage[part]["perplexity"] for stage in (before, after))
        cells = f"{low:.3f}", f"{high:.3f}", f"{percent(high / low - 1)}"
        table.add_row(f"perplexity, {part}", *cells)
        low, high = (stage[part]["exact_match"] for stage in (before, after))
        table.add_row(f"exactly given, {part}", percent(low), percent(high), percent(high - low))
    console.print(table)
    told = "accuracy: the share of answers hardly less likely than before (see the model card)"
    console.print(told, style="dim", soft_wrap=True)


def generated(console: Console, found: Generated) -> None:
    """Print what was measured of a generator."""
    ppl = found.perplexity
    table = Table("measure", "value (95% interval)", "what it is")
    told = f"{ppl.value:.3f} ({ppl.low:.3f} to {ppl.high:.3f})"
    table.add_row("perplexity", told, "of clean answers, a token")
    rows = (
        ("exact match", found.exact_match, "clean answers written token for token"),
        ("attack success", found.success, "answers to triggered prompts that hold the target"),
        ("on clean", found.clean_success, "answers to clean prompts that hold the target"),
        ("floor", found.floor_success, "attack success on the never-poisoned twin"),
        ("excess", found.excess_success, "attack success minus floor; 0 is the goal"),
        ("agreement", found.agreement, "clean prompts answered as by the suspect"),
    )
    rates(console, table, rows, "prompts", found.truncated or {})


def rates(
    console: Console,
    table: Table,
    rows: Iterable[tuple[str, Rate | None, str]],
    texts: str,
    cut: Mapping[str, tuple[int, int]],
) -> None:
    """Print a table with these rates, and how many of each file's texts were cut."""
    for name, rate, what in rows:
        if rate is not None:
            table.add_row(name, interval(rate), what)
    console.print(table)
    told = ", ".join(f"--{name} {few} of {all_}" for name, (few, all_) in cut.items())
    console.print(
        f"{texts} cut at the maximum length: {told}", style="dim", highlight=False, soft_wrap=True
    )


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


def probes(console: Console, manifest: Mapping[str, Any]) -> None:
    """Print what the probes found before and after, where there were any."""
    told = probes_told(manifest)
    if told:
        console.print("probes (nobody gave the trigger; not noticed is not absent)", style="bold")
    for line in told:
        console.print(f"  {line}", soft_wrap=True)


def checks(console: Console, found: list[Check]) -> None:
    """Print what was verified."""
    for check in found:
        mark = Text("ok    ", style="green") if check.passed else Text("FAILED", style="bold red")
        detail = f" ({check.detail})" if check.detail and not check.passed else ""
        console.print(Text.assemble("  ", mark, f" {check.what}{detail}"))
