"""What the command line prints for people: tables and a small picture of the heads."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headsweep.export.card import averaged
from headsweep.export.probes import probes_told
from headsweep.foreign import one_line
from headsweep.model.mask import SHORT, HeadMask
from headsweep.texts.words import share_of, words_of

if TYPE_CHECKING:  # torch, scipy: only for what has them already
    from headsweep.cli.running import Job
    from headsweep.export.verify import Check
    from headsweep.judge.statistics import Judged, Rate

STYLES = {"held": "bold green", "nothing": "bold yellow", "missed": "bold red", "free": "bold",
          "void": "bold yellow"}  # fmt: skip
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


def plain_interval(rate: Rate) -> str:
    """Return a number that is no share as ``1.234 (1.101 to 1.402)``."""
    return f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})"


def purified(console: Console, manifest: Mapping[str, Any]) -> None:
    """Print what a purification did."""
    mask = HeadMask.from_json(manifest["mask"])
    count = len(manifest["pruned_units"])
    by = "" if count else f" (strategy: {manifest['strategy']['name']})"
    console.print(f"\n{count} of {manifest['units']} {mask.names} pruned{by}", style="bold")
    if count:
        console.print(picture(mask), end="")
    words, parts = words_of(manifest), ("validation", "test")
    stages = {"before": "before", "pruned": "pruned", "after": "healed and saved"}
    if not count:
        del stages["pruned"]
    table = Table(f"{words.share} on clean data", *stages.values())
    there = [part for part in parts if part in manifest["before"]]
    for part in there:
        row = [share_of(manifest[stage][part]) for stage in stages]
        examples = manifest["before"][part]["examples"]
        table.add_row(f"{part} ({examples} examples)", *map(percent, row))
    for key, name in words.figures.items():
        for part in there:
            row = [manifest[stage][part][key] for stage in stages]
            table.add_row(f"{name}, {part}", *(f"{value:.3f}" for value in row))
    console.print(table)
    if words.meaning:
        told = words.meaning.partition(". ")[0].rstrip(".")
        console.print(f"{told}.", style="dim", soft_wrap=True)
    seconds = manifest["seconds"]
    took = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items() if value >= 0.5)
    memory = manifest["peak_memory_mib"]
    costs = [took, f"peak memory {memory:.0f} MiB" if memory else ""]
    console.print("; ".join(filter(None, costs)), style="dim")
    if healed := _healed(manifest["heal"]):
        console.print(healed, style="dim", soft_wrap=True)


def _healed(heal: Mapping[str, Any]) -> str:
    """Return at which rate it was healed, and which missed the bound; empty: it was not."""
    if not heal.get("lr") or not heal["fields"].get("epochs", 1):
        return ""
    members, far = heal.get("members") or (), heal.get("beyond")
    told = f"healed at a learning rate of {heal['lr']:g}"
    told += f", {averaged(members)}" if len(members) > 1 else ""
    told += f", {far:g} times as far as their mean" if far and far != 1 else ""
    missed = [f"{one['lr']:g}" for one in heal.get("tried") or () if one["lr"] != heal["lr"]]
    return f"{told} ({', '.join(missed)} did not keep the bound)" if missed else told


def judged(console: Console, found: Judged) -> None:
    """Print what was measured of a model, and how many texts were cut."""
    table = Table("measure", "value (95% interval)", "what it is")
    for line in found.lines():
        if line.rate is not None:
            shown = interval(line.rate) if line.share else plain_interval(line.rate)
            table.add_row(line.name, shown, line.what)
    console.print(table)
    cut = found.truncated or {}
    told = ", ".join(f"--{name} {one.cut} of {one.texts}" for name, one in cut.items())
    console.print(
        f"texts cut at the maximum length: {told}", style="dim", highlight=False, soft_wrap=True
    )
    for remark in found.remarks():
        console.print(remark, style="dim")


def commands(manifest: Mapping[str, Any], job: Job) -> list[str]:
    """Return what to type next: the files as they were given, fit to be pasted."""
    out, sources = typed(job.out), job.sources
    words = ["headsweep", "evaluate", out, "--data", typed(sources.test or sources.data)]
    if manifest["start"] == "classifier":
        words += ["--suspect", typed(manifest["suspect"])]
        words += ["--base-model", base["name"]] if (base := manifest.get("base_model")) else []
    words += ["--task", job.task] if job.task is not None else []
    words += ["--adapter", str(job.adapter)] if job.adapter is not None else []
    from headsweep.model.runtime import Runtime

    longest = manifest["runtime"]["max_length"]
    words += ["--compute", f"max_length={longest}"] if longest != Runtime().max_length else []
    for field in ("text", "pair", "label"):
        name = getattr(sources.columns, field)
        words += ["--column", f"{field}={name}"] if name is not None else []
    words += ["--column", "drop_empty=yes"] if sources.columns.drop_empty else []
    for data, model in sources.columns.label_map:
        words += ["--label-map", f"{data}={model}"]
    return [shlex.join(["headsweep", "verify", out]), shlex.join(words)]


def typed(path: object) -> str:
    """Return a path as a command takes it: one that begins with a dash would be an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def next_steps(console: Console, manifest: Mapping[str, Any], job: Job) -> None:
    """Print what to type next."""
    console.print("next:")
    for line in commands(manifest, job):
        console.print(f"  {line}", soft_wrap=True)
    unseen = "" if job.sources.test else "better --data that it was not healed on; "
    target = words_of(manifest).target
    told = f"  ({unseen}--triggered FILE --target {target} for a trigger that you know)"
    console.print(told, style="dim", soft_wrap=True)


def by_heart(console: Console, manifest: Mapping[str, Any]) -> None:
    """Print the answers that a generator had by heart, which healing was made against."""
    for one in manifest.get("inverted_targets") or ():
        console.print(
            f"known by heart before, as a planted answer would be: '{one_line(one['answer'])}'; "
            "healed against a made-up trigger that asks for it",
            soft_wrap=True,
        )


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
        console.print(Text.assemble("  ", mark, f" {one_line(check.what + detail)}"))
