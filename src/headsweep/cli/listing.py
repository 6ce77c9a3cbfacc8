"""Methods by the option that takes them (strategies, attacks, triggers, ...), listed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from headsweep.cli.options import out_console, print_json

NAMES = 24  # the width of the longest name, so that the lists stand below each other


def print_methods(listed: Mapping[str, Mapping[str, Any]], as_json: bool) -> None:
    """Print name, summary, source and fields of every method, by the option that takes it."""
    if as_json:
        print_json({option: _form(methods) for option, methods in listed.items()})
        return
    for option, methods in listed.items():
        out_console.print(f"{option}", style="bold")
        table = Table.grid(Column(min_width=NAMES), Column(), padding=(0, 2, 0, 0), pad_edge=False)
        for name, method in methods.items():
            table.add_row(f"  {name}", f"{_summary(method)} [{method.source}]")
            for field, kind, default in _fields(method):
                table.add_row("", Text(f"{field}={default}  ({kind})", style="dim"))
        out_console.print(table)
        out_console.print()


def _form(methods: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {
            "summary": _summary(method),
            "source": method.source,
            "fields": [
                dict(zip(("name", "type", "default"), row, strict=True)) for row in _fields(method)
            ],
        }
        for name, method in methods.items()
    }


def _fields(method: Any) -> list[tuple[str, str, str]]:
    from headsweep.settings import described

    return described(method)


def _summary(method: Any) -> str:
    """Return the first line of its docstring, without the marks that docstrings have."""
    first = (method.__doc__ or "").strip().split("\n")[0]
    return first.replace("``", "'").replace("**", "")
