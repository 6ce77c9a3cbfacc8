r"""Run the probe battery on many models, one JSON file each; resumes; prints a table.

    python benchmarks/probes.py CORPUS/clean/test.tsv results/probes VICTIMS/* SUSPECTS/*

Finished models are skipped. The table says what was noticed, and the largest excess that was not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from suspects import _commit

from headsweep import data
from headsweep.data import Columns
from headsweep.export import environment, write_json
from headsweep.loading import Runtime, load_suspect
from headsweep.probe import Battery, probe
from headsweep.progress import Terminal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clean", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    args = parser.parse_args()
    args.results.mkdir(parents=True, exist_ok=True)
    for folder in args.models:
        if not (folder / "config.json").exists():
            continue
        for seed in args.seeds:
            cell = args.results / f"{folder.name}-s{seed}.json"
            if not cell.exists():
                print(f"== {cell.name}", flush=True)
                write_json(cell, _cell(folder, args.clean, seed))
    print("| model | seed | noticed (excess, points) | largest excess not noticed |")
    print("|---|---|---|---|")
    for cell in sorted(args.results.glob("*.json")):
        print(_row(cell.stem, json.loads(cell.read_text())))


def _cell(folder: Path, clean: Path, seed: int) -> dict[str, object]:
    suspect = load_suspect(folder, Runtime())
    texts = data.load(clean, Columns(), suspect.labels)
    found = probe(suspect, texts, Battery(seed=seed), Runtime(), Terminal())
    record = folder / "attack.json"
    made = json.loads(record.read_text()) if record.exists() else {}
    how = {key: made[key] for key in ("attack", "trigger", "target", "rate") if key in made}
    code = {"environment": environment() | {"commit": _commit()}}
    form = found.to_json()
    for row in form["findings"]:
        row.pop("examples")  # the texts are not ours to publish
    return {"model": folder.name, "made": how} | form | code


def _row(name: str, form: dict[str, object]) -> str:
    def told(rows: list[dict[str, object]]) -> str:
        return ", ".join(
            f"{row['family']} into {row['label']} {100 * row['excess']['value']:+.0f}"  # type: ignore[index]
            for row in rows
        )

    rows: list[dict[str, object]] = form["findings"]  # type: ignore[assignment]
    noticed = [row for row in rows if row["noticed"]]
    rest = [row for row in rows if not row["noticed"]]
    model, _, seed = name.rpartition("-s")
    return f"| {model} | {seed} | {told(noticed) or 'nothing'} | {told(rest[:1])} |"


if __name__ == "__main__":
    main()
