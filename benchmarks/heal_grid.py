r"""Healing, with every setting of a grid: what is left, and what it costs.

    python benchmarks/heal_grid.py CORPUS VICTIMS results/heal-grid \
        --only dirty-label-characters dirty-label-opening --lr 5e-5 1e-4 2e-4 --epochs 4 8
    python benchmarks/heal_grid.py CORPUS VICTIMS results/heal-grid --tables

Alone, or after heads have been pruned (``--strategy gradient``). For choosing among settings, so
texts are those of ``frontier.py``, *not* of the test part: neither the attacker nor the victim has
seen what the defender has, nor what judges. One JSON file a setting; resumes, and several processes
may work on one folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from claims import Queue
from frontier import Ground
from guided import Setting
from guided_plan import Case
from suspects import _commit

from headsweep.cost import Clock
from headsweep.export import environment
from headsweep.healing import FineTune
from headsweep.loading import Runtime
from headsweep.pipeline import purify
from headsweep.plan import Plan
from headsweep.progress import Terminal
from headsweep.settings import describe
from headsweep.strategies import STRATEGIES

ALONE = "none"


@dataclass(frozen=True)
class Run:
    """A model, what prunes it first, and a setting of healing."""

    case: Case
    strategy: str
    prune_drop: float | None
    lr: float
    epochs: float
    attention: float
    seed: int
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its file."""
        told = f"lr={self.lr:g}-epochs={self.epochs:g}-attention={self.attention:g}"
        first = "" if self.strategy == ALONE else f"-{self.strategy}"
        first += "" if self.prune_drop is None else f"-prune-drop={self.prune_drop:g}"
        return f"{self.case.name}{first}-{told}-s{self.seed}"


@dataclass
class Runner:
    """Heals models."""

    corpus: Path
    victims: Path
    train_rows: int
    judged_on: int

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was left after healing."""
        clock, name = Clock(), run.case.name
        sizes = (self.train_rows, self.judged_on, run.seed)
        ground = Ground.of(self.corpus, self.victims, name, *sizes)
        healing = FineTune(run.epochs, run.lr, attention=run.attention or None)
        asked = Plan(
            Setting.max_drop,
            prune_drop=run.prune_drop,
            seed=run.seed,
            runtime=Runtime(),
            heal=healing,
        )
        strategy = None if run.strategy == ALONE else STRATEGIES[run.strategy]()
        done = purify(ground.folder, ground.sources, strategy, asked, progress=Terminal())
        return {
            "victim": name,
            "strategy": run.strategy,
            "prune_drop": run.prune_drop,
            "pruned_count": len(done.manifest["pruned_units"]) if strategy else 0,
            "healing": describe(healing),
            "seed": run.seed,
            "setting": {"train_rows": self.train_rows, "judged_on": self.judged_on},
            "before": ground.judged(),
            "healed": ground.judged(done.suspect),
            "after": done.manifest["after"],
            "purify_seconds": done.manifest["seconds"],
            "environment": environment() | {"commit": _commit()},
            "seconds": clock.report(),
        }


def key(form: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return a cell's strategy, penalty, learning rate and epochs."""
    healing = form["healing"]["fields"]
    numbers = (healing.get("attention") or 0.0, healing["lr"], healing["epochs"])
    deep = "" if form.get("prune_drop") is None else f" within {form['prune_drop']:g}"
    return (form["strategy"] + deep, *(f"{value:g}" for value in numbers))


def change(form: dict[str, Any]) -> float:
    """Return the points of accuracy that healing gained."""
    return 100 * (form["healed"]["accuracy"]["value"] - form["before"]["accuracy"]["value"])


def tables(forms: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a row a setting, a column a model; means over the models that a setting has."""
    models = sorted({form["victim"] for form in forms})
    told = [name.removeprefix("dirty-label-") for name in models]
    yield f"| pruned by | penalty | lr | epochs | {' | '.join(told)} | mean | worst |"
    yield "|---" * (6 + len(models)) + "|"
    before = {form["victim"]: 100 * form["before"]["excess_lfr"]["value"] for form in forms}
    yield f"| as it is | | | | {' | '.join(f'{before[name]:.0f}' for name in models)} | | |"
    for asked in sorted({key(form) for form in forms}):
        cells, left, kept = [], [], []
        for name in models:
            own = [f for f in forms if f["victim"] == name and key(f) == asked]
            points = [100 * f["healed"]["excess_lfr"]["value"] for f in own]
            gained = [change(f) for f in own]
            if own:
                left.append(sum(points) / len(own))
                kept.append(sum(gained) / len(own))
            cells.append(
                ", ".join(f"{p:.0f} ({g:+.1f})" for p, g in zip(points, gained, strict=True))
                or "missing"
            )
        mean = f"{sum(left) / len(left):.1f} ({sum(kept) / len(kept):+.1f})"
        yield f"| {' | '.join(asked)} | {' | '.join(cells)} | {mean} | {max(left):.0f} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("corpus", "victims", "results"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="names of models")
    parser.add_argument("--strategy", nargs="*", default=[ALONE], help="what prunes first")
    parser.add_argument("--prune-drop", type=float, help="how far accuracy may fall before")
    for name, default in (("lr", 1e-4), ("epochs", 4.0), ("attention", 0.15)):
        parser.add_argument(f"--{name}", type=float, nargs="*", default=[default])
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--train-rows", type=int, default=1200)
    parser.add_argument("--judged-on", type=int, default=800, help="clean texts")
    parser.add_argument("--tables", action="store_true", help="print the tables, run nothing")
    args = parser.parse_args(arguments)
    failed: set[str] = set()
    if not args.tables:
        torch.set_num_threads(1)
        args.results.mkdir(parents=True, exist_ok=True)
        runner = Runner(args.corpus, args.victims, args.train_rows, args.judged_on)
        grid = product(args.strategy, args.attention, args.lr, args.epochs, args.only)
        drop = args.prune_drop
        runs = [Run(Case(name), s, drop, lr, e, a, args.seed) for s, a, lr, e, name in grid]
        queue = Queue(runs, runner.do, args.results)
        queue.run()
        failed = queue.failed
    files = sorted(args.results.glob("*.json"))
    print("\n".join(tables([json.loads(file.read_text("utf-8")) for file in files])))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
