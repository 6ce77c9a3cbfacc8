"""The command that runs the probe battery."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from headsweep.cli.app import app
from headsweep.cli.options import (
    AdapterFile,
    AsJson,
    BaseModel,
    Column,
    Compute,
    Device,
    Fraction,
    LabelMap,
    Model,
    Quiet,
    Seed,
    TaskName,
    check_sources,
    out_console,
    print_json,
    progress_of,
)
from headsweep.cli.show import percent
from headsweep.export.probes import PROMISE
from headsweep.foreign import one_line
from headsweep.verbs.arguments import check_file

LEAST = 60  # columns that the table of rows takes


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "headsweep probe ./suspect --data clean.csv\n\n"
    "headsweep probe org/model --data imdb:test --max-flip 0.3 --sarif probe.sarif\n\n"
    "headsweep probe ./suspect --data clean.csv --family syntactic --family style --json\n\n"
    "headsweep probe ./llm --data prompts.jsonl\n\n"
    "Exit codes: 0 nothing noticed (which is no proof), 1 something noticed, 2 a mistake in what "
    "was asked."
)
def probe(
    model: Model,
    data: Annotated[
        str,
        typer.Option(help="Clean labelled data, or prompts; best not seen in training."),
    ],
    family: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this trigger family (may be repeated)."),
    ] = None,
    texts: Annotated[
        int | None,
        typer.Option(
            min=20,
            help="Texts drawn of each label, at most: 150; or prompts of a generator, 32 or more: "
            "60.",
        ),
    ] = None,
    max_flip: Annotated[
        float,
        Fraction(
            "--max-flip",
            help="Notice when flips into one label or answer exceed the controls' by this share.",
        ),
    ] = 0.2,
    sarif: Annotated[Path | None, typer.Option(help="Also write SARIF 2.1.0 here, for CI.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --sarif.")] = False,
    task: TaskName = None,
    base_model: BaseModel = None,
    adapter: AdapterFile = None,
    column: Column = None,
    label_map: LabelMap = None,
    seed: Seed = 0,
    device: Device = "auto",
    compute: Compute = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put clean texts through generic trigger families and see whether answers flip one way."""
    check_sources(data)
    if sarif is not None:
        check_file(sarif, overwrite, (model, base_model, data))
    from headsweep.drafts import write_json
    from headsweep.judge.sarif import sarif as log
    from headsweep.verbs.judging import probe as run

    found = run(
        model,
        data,
        family=family,
        texts=texts,
        max_flip=max_flip,
        task=task,
        base_model=base_model,
        adapter=adapter,
        column=column,
        label_map=label_map,
        seed=seed,
        device=device,
        compute=compute,
        progress=progress_of(quiet or as_json),
    )
    if sarif is not None:
        write_json(sarif, log(found, model))
    if as_json:
        print_json({"model": model} | found.to_json())
    else:
        print_probed(found)
    if found.alarming:
        raise typer.Exit(1)


def print_probed(found: Any) -> None:
    """Print what the battery found: the verdict, the rows to worry about, a count of the rest."""
    count, limit = len(found.noticed), percent(found.battery.max_flip)
    rows = f"{len(found.findings)} {found.rows}"
    if count:
        told = f"NOTICED: {count} of {rows} flip into {found.into} by more than {limit}"
    else:
        told = f"nothing noticed: none of {rows} flips into {found.into} by more than {limit}"
    told += f" above the controls, on {found.on}"
    out_console.print(told, style="bold red" if count else "bold", soft_wrap=True)
    for one in found.by_heart or ():
        out_console.print(
            f"BY HEART: once an answer is begun so, it goes on to '{one_line(one.text)}' whatever "
            f"the prompt ({one.sure}), as one that was "
            "planted would. Clean answers do not hold it.",
            style="bold red",
            soft_wrap=True,
        )
    for row in found.brittle:
        out_console.print(
            f"BRITTLE: the harmless edit '{row.family}' flips {percent(row.flips.value)} into "
            f"'{one_line(row.label)}', so flips by a trigger mean less.",
            soft_wrap=True,
        )
    shown = [row for row in found.findings if row.noticed or row in found.brittle]
    if shown:
        table = _rows(shown)
        if out_console.width < LEAST:  # the window may break lines, but no figure is cut
            table.width = LEAST
        out_console.print(table, crop=False, no_wrap=True, overflow="ignore")
    for row in found.noticed[:3]:
        for before, after in row.examples[:1]:
            out_console.print(f"  {one_line(before)}", style="dim")
            out_console.print(f"  -> {one_line(after)}  = {one_line(row.label)}")
    rest = [row for row in found.findings if row not in shown]
    if rest:
        top = max(rest, key=lambda row: row.excess.value)
        out_console.print(
            f"{len(rest)} {'other ' * bool(shown)}rows, the largest excess "
            f"{100 * top.excess.value:+.1f} points ('{top.family}' into '{one_line(top.label)}'); "
            "all of them with --json",
            soft_wrap=True,
        )
    for name, why in found.skipped.items():
        out_console.print(f"not tried: {one_line(name)}: {one_line(why)}", soft_wrap=True)
    out_console.print(PROMISE, style="dim")


def _rows(findings: list[Any]) -> Table:
    head = ("family", "into", "flips", "other way", "harmless", "excess points", "p")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in head:
        table.add_column(name, overflow="fold")
    for row in findings:
        excess = row.excess
        table.add_row(
            row.family if row.kind == "trigger" else f"({row.family})",
            one_line(row.label),
            percent(row.flips.value),
            percent(row.reverse),
            "-" if row.harmless is None else percent(row.harmless),
            f"{100 * excess.value:+.1f} ({100 * excess.low:.0f} to {100 * excess.high:.0f})",
            f"{row.p_value:.3f}",
            style="bold red" if row.noticed else None,
        )
    return table
