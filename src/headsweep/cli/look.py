"""Commands that only look: strategies, inspect, verify."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from headsweep.cli.app import app
from headsweep.cli.listing import print_methods
from headsweep.cli.options import (
    AdapterFile,
    AsJson,
    BaseModel,
    Compute,
    Device,
    Model,
    TaskName,
    out_console,
    print_json,
)
from headsweep.errors import UserError
from headsweep.foreign import one_line
from headsweep.verbs.arguments import check_file, refuse_unused
from headsweep.verbs.methods import all_methods

if TYPE_CHECKING:  # it costs what computing costs
    from headsweep.model.findings import Findings


@app.command(epilog="[bold]Example[/bold]\n\nheadsweep strategies --json")
def strategies(as_json: AsJson = False) -> None:
    """List strategies, baselines, controls, attacks, detectors: source, fields and defaults."""
    print_methods(all_methods(), as_json)


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "headsweep inspect ./suspect\n\n"
    "headsweep inspect ./suspect --security --sarif files.sarif\n\n"
    "Exit codes of --security: 0 nothing but notes (which is no proof), 1 something found, "
    "2 no such model, or a mistake in what was asked."
)
def inspect(
    model: Model,
    security: Annotated[
        bool,
        typer.Option("--security", help="List what its files hold instead; nothing is loaded."),
    ] = False,
    sarif: Annotated[
        Path | None, typer.Option(help="With --security: also write SARIF 2.1.0 here, for CI.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --sarif.")] = False,
    task: TaskName = None,
    base_model: BaseModel = None,
    adapter: AdapterFile = None,
    device: Device = "auto",
    compute: Compute = None,
    as_json: AsJson = False,
) -> None:
    """Show layers, heads, key/value groups and what is pruned already; check that gates work."""
    if sarif is not None:
        if not security:
            raise UserError("--sarif: is of --security", "add --security")
        check_file(sarif, overwrite, (model, base_model))
    if security:
        how = {"--task": task, "--adapter": adapter, "--compute": compute}
        refuse_unused(how | {"--device": device != "auto"}, "{}: --security loads nothing")
        list_files(model, base_model, sarif, as_json)
        return
    from headsweep.cli.show import picture
    from headsweep.verbs.looking import inspect as run

    found = run(
        model,
        task=task,
        base_model=base_model,
        adapter=adapter,
        device=device,
        compute=compute,
    )
    if as_json:
        print_json(found.to_json())
        return
    out_console.print(
        f"{found.architecture}, {_millions(found.parameters)} parameters, saved in "
        f"{found.precision}, for {found.task}, labels "
        + (", ".join(map(one_line, found.labels)) or "none"),
        soft_wrap=True,
    )
    first = found.layers[0]
    ffn = found.mask.ffn
    groups = f"; {len(ffn[0])} FFN groups a layer, as pruned here" if ffn else ""
    out_console.print(
        f"{len(found.layers)} layers x {first.heads} heads of width {first.head_width}, "
        f"{first.key_value_heads} key/value heads a layer; gates checked{groups}"
    )
    if 1 < first.key_value_heads < first.heads:
        out_console.print(
            f"purify prunes a key/value head with the {first.heads // first.key_value_heads} query "
            "heads that share it, as one unit; --units queries prunes single heads"
        )
    for note in found.notes:
        out_console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    out_console.print(picture(found.mask), end="")


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f}M" if count >= 100_000 else f"{count:,}"


def list_files(model: str, base_model: str | None, sarif: Path | None, as_json: bool) -> None:
    """Print what the files of a model hold; exit code 1 where that is more than notes."""
    from headsweep.drafts import write_json
    from headsweep.judge.sarif import sarif_of_files
    from headsweep.verbs.looking import inspect as run

    found = run(model, security=True, base_model=base_model)
    if sarif is not None:
        write_json(sarif, sarif_of_files(found))
    if as_json:
        print_json(found.to_json())
    else:
        print_findings(found)
    if not found.clean:
        raise typer.Exit(1)


def print_findings(found: Findings) -> None:
    """Print the verdict, a table of what was found, and what was not looked at."""
    count = sum(one.level != "note" for one in found.findings)
    notes = len(found.findings) - count
    told = f"FOUND: {count}" if count else "nothing found"
    told += f"{', and' if count else ' but'} {notes} note{'s' * (notes > 1)}" if notes else ""
    told += "; the model is refused" if found.refused else "; no reason to refuse the model"
    out_console.print(told, style="bold red" if count else "bold", soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for name in ("level", "rule", "file", "what"):
        table.add_column(name, overflow="fold")
    for one in found.findings:
        style = {"error": "bold red", "warning": "red"}.get(one.level)
        file = one.file if one.model == found.model else f"{one.model}/{one.file}"
        table.add_row(one.level, one.rule, file, one.message, style=style)
    if found.findings:
        out_console.print(table)
    by = f"and {found.scanner}" if found.scanner else "(modelaudit is not installed)"
    out_console.print(
        f"Looked at by headsweep {by}. Files only: a backdoor in the weights is not looked for.",
        style="dim",
        soft_wrap=True,
    )


@app.command(epilog="[bold]Example[/bold]\n\nheadsweep verify ./purified")
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder `purify` wrote.")],
    as_json: AsJson = False,
) -> None:
    """Check the weights of a purified folder against its manifest."""
    from headsweep.export.verify import verify as run

    found = run(folder)
    if as_json:
        print_json([dataclasses.asdict(check) for check in found])
    else:
        from headsweep.cli import show

        show.checks(out_console, found)
    if not all(check.passed for check in found):
        raise typer.Exit(1)
