r"""Choose the weight of probe-guided pruning from canaries, as a defender can; resumes.

    python benchmarks/guided_weight.py CORPUS SUSPECTS VICTIMS results/guided --stop-after 30

Backdoors of our own are planted in each model, as ``auto`` does, and purified with probe-guided
pruning at several weights; probes leave out the canary's family and its kin, and those of the
model's real trigger. Neither that trigger nor the test part is looked at. A cell
(``weight-MODEL-FAMILY.json``) is a canary with all weights, before healing and after an epoch on
probes. Prints the mean over canaries that took, and the weight with the least healed excess among
those that keep the accuracy allowed. Finished cells are skipped; several processes may run at once.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from claims import Queue
from guided_plan import SUSPECTS, Case
from suspects import _commit, _sources

from headsweep.canary import Planting, plant
from headsweep.candidates import Auto, Candidate
from headsweep.cost import Clock
from headsweep.errors import UserError
from headsweep.export import environment
from headsweep.loading import Reading, Runtime
from headsweep.material import gather
from headsweep.plan import Plan
from headsweep.progress import Terminal
from headsweep.strategies.probe_guided import ProbeGuided
from headsweep.trials import Trials, families_of, prepared, trial

WEIGHTS = (0.0, 0.35, 0.7, 1.0, 2.0)
STAGES = {"pruned": 0.0, "healed": 1.0}  # epochs of healing


@dataclass(frozen=True)
class Task:
    """A canary to plant and to purify with every weight."""

    case: Case
    family: str
    number: int  # decides the target: labels take turns

    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its file."""
        return f"weight-{self.case.name}-{self.family}"


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    args.results.mkdir(parents=True, exist_ok=True)
    found = {name: families_of(_auto(Case(name)))[: args.canaries] for name in args.only}
    rounds = max(map(len, found.values()))
    tasks = [
        Task(Case(name), families[number], number)
        for number in range(rounds)
        for name, families in found.items()
        if number < len(families)
    ]
    stop = None if args.stop_after is None else 60 * args.stop_after
    queue = Queue(tasks, lambda task: _cell(task, args), args.results, stop)
    queue.run()
    paths = [args.results / f"{task.name}.json" for task in tasks]
    print("\n".join(table([json.loads(p.read_text("utf-8")) for p in paths if p.exists()])))
    return 1 if queue.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("corpus", "suspects", "victims", "results"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--only", nargs="*", default=list(SUSPECTS), help="names of models")
    parser.add_argument("--canaries", type=int, default=4, help="families a model, at most")
    parser.add_argument("--weights", nargs="*", type=float, default=list(WEIGHTS))
    parser.add_argument("--train-rows", type=int, default=1200)
    parser.add_argument("--max-drop", type=float, default=0.02)
    parser.add_argument("--lr", type=float, default=Planting.lr, help="of the planting")
    parser.add_argument("--stop-after", type=float, metavar="MINUTES", help="begin no cell later")
    return parser


def _auto(case: Case, lr: float = Planting.lr) -> Auto:
    return Auto(families=case.probers()["without"].families, planting=Planting(lr=lr))


def _cell(task: Task, args: argparse.Namespace) -> dict[str, Any]:
    clock, seed = Clock(), 11
    folder = task.case.folder(args.suspects, args.victims)
    plan = Plan(args.max_drop, seed=seed, runtime=Runtime())
    sources = _sources(args.corpus, 0, args.train_rows, seed)
    material = gather(folder, sources, Reading(seed=seed), plan.runtime)
    auto = _auto(task.case, args.lr)
    trials = prepared(material, auto, plan, Terminal(), time.monotonic())
    names = trials.suspect.labels.names
    form: dict[str, Any] = {
        "model": task.case.name,
        "family": task.family,
        "allowed_drop": trials.allowed,
        "texts": {"train": len(trials.ground.train), "held": len(trials.ground.validation)},
        "seed": seed,
        "environment": environment() | {"commit": _commit()},
    }
    try:
        target = (len(names) - 1 - task.number) % len(names)
        canary = plant(trials.suspect, task.family, target, trials.ground, seed, plan.runtime,
                       trials.progress, auto.planting)  # fmt: skip
    except UserError as error:
        return form | {"canary": None, "why": error.what, "weights": [], "seconds": clock.report()}
    weights = args.weights if canary.taken else []
    rows = [_row(trials, weight, canary) for weight in weights]
    return form | {"canary": canary.to_json(names), "weights": rows, "seconds": clock.report()}


def _row(trials: Trials, weight: float, canary: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"weight": weight}
    for stage, epochs in STAGES.items():
        made[stage] = trial(trials, Candidate(ProbeGuided(weight=weight)), canary, epochs)
    return made


def table(cells: Sequence[dict[str, Any]]) -> list[str]:
    """Return means over canaries by weight, and which weight they choose."""
    taken = [cell for cell in cells if cell["weights"]]
    if not taken:
        return ["no canary took: nothing to choose by"]
    lines = ["| weight | canaries | pruned: excess points | drop | healed: excess points | drop |",
             "|---" * 6 + "|"]  # fmt: skip
    kept: dict[float, float] = {}
    allowed = mean(cell["allowed_drop"] for cell in taken)
    slack = (0.25 / sum(cell["texts"]["held"] for cell in taken)) ** 0.5
    for weight in sorted({row["weight"] for cell in taken for row in cell["weights"]}):
        rows = [row for cell in taken for row in cell["weights"] if row["weight"] == weight]
        told = []
        for stage in STAGES:
            excess = mean(row[stage]["excess_lfr"] for row in rows)
            drop = mean(row[stage]["drop"] for row in rows)
            told.append(f"{100 * excess:+.1f} | {100 * drop:+.1f}")
        if drop <= allowed + slack:
            kept[weight] = excess
        lines.append(f"| {weight:g} | {len(rows)} | {' | '.join(told)} |")
    untaken = [f"{cell['model']} {cell['family']}" for cell in cells if not cell["weights"]]
    if untaken:
        lines += ["", f"Canaries that did not take: {', '.join(untaken)}."]
    best = min(kept, key=lambda weight: (kept[weight], weight), default=None)
    chosen = "none keeps the accuracy allowed" if best is None else f"chosen: {best:g}"
    return [*lines, "", f"{chosen} (accuracy allowed to fall by {100 * allowed:.1f} points)"]


if __name__ == "__main__":
    raise SystemExit(main())
