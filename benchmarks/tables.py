"""Print the Markdown tables of docs/log.md from result files.

python benchmarks/tables.py results/comparison
python benchmarks/tables.py results/suspects --by-rows
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

Cell = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("results", type=Path)
    parser.add_argument("--by-rows", action="store_true", help="a line an amount of clean data")
    args = parser.parse_args()
    cells = [json.loads(path.read_text()) for path in sorted(args.results.glob("*.json"))]
    for kind in sorted({cell["suspect"] for cell in cells}):
        own = [cell for cell in cells if cell["suspect"] == kind]
        print(f"\n{kind} suspect\n")
        (by_rows if args.by_rows else by_method)(own)


def by_method(cells: list[Cell]) -> None:
    print(
        "| method | units pruned | pruned: ACC / LFR / CFR | matched | healed: ACC / LFR / CFR "
        "| matched LFR | excess LFR (95%) | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print(f"| as it is | 0 | | | {three(cells[0]['before'])} | {tail(cells[0]['before'])} | |")
    for cell in sorted(cells, key=order):
        bare, healed = cell.get("pruned"), cell.get("healed")
        count = f"{cell['pruned_count']} of {cell['units']}" if bare else "0"
        matched = f"{bare['matched_lfr']['value']:.3f}" if bare else ""
        if "outcome" in cell:
            count = "none could go"
        print(
            f"| {cell['method']} | {count} | {three(bare)} | {matched} | {three(healed)} | "
            f"{tail(healed)} | {cell['seconds']['all']:.0f} |"
        )


def by_rows(cells: list[Cell]) -> None:
    print(
        "| clean sentences | seed | heads pruned | pruned: ACC / LFR / CFR | healed: ACC / LFR / "
        "CFR | matched LFR | excess LFR (95%) |"
    )
    print("|---|---|---|---|---|---|---|")
    print(f"| as it is | | 0 | | {three(cells[0]['before'])} | {tail(cells[0]['before'])} |")
    groups: dict[Any, list[Cell]] = {}
    for cell in sorted(cells, key=lambda c: (c["rows"] == "all", c["rows"], c["seed"])):
        groups.setdefault(cell["rows"], []).append(cell)
        count = len(cell.get("pruned_units") or []) or cell.get("pruned_count", "none could go")
        print(
            f"| {cell['rows']} | {cell['seed']} | {count} | {three(cell.get('pruned'))} | "
            f"{three(cell.get('healed'))} | {tail(cell.get('healed'))} |"
        )
    for rows, group in groups.items():
        done = [c["healed"]["excess_lfr"]["value"] for c in group if "healed" in c]
        if len(done) > 1:
            print(f"| {rows}: mean of {len(done)} seeds | | | | | | {mean(done):.3f} |")


def order(cell: Cell) -> tuple[bool, float]:
    found = cell.get("healed") or cell.get("pruned")
    return found is None, found["excess_lfr"]["value"] if found else 0.0


def three(found: Cell | None) -> str:
    if found is None:
        return ""
    return " / ".join(f"{found[name]['value']:.3f}" for name in ("accuracy", "lfr", "cfr"))


def tail(found: Cell | None) -> str:
    if found is None:
        return " | "
    excess = found["excess_lfr"]
    return (
        f"{found['matched_lfr']['value']:.3f} | {excess['value']:+.3f} "
        f"({excess['low']:+.3f} to {excess['high']:+.3f})"
    )


if __name__ == "__main__":
    main()
