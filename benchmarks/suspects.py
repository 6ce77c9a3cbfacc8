r"""Purify suspects whose trigger is known to the judge, one JSON file a cell; resumes.

    python benchmarks/suspects.py CORPUS SUSPECTS results/suspects --rows 0 50 200
    python benchmarks/suspects.py CORPUS SUSPECTS results/comparison --method gradient \\
        defend:pure random:count=20 --train-rows 2000 --min-accuracy 0.85 --heal-epochs 1

CORPUS is a folder with clean/, syntactic/ and style/ (train, dev and test as .tsv), SUSPECTS a
folder with the models syntactic/, style/ and clean-twin/. A method is a strategy, or
``defend:`` and a baseline, with fields behind a colon. ``--rows 0`` takes the training set (or
``--train-rows`` of it) with dev as validation data; any other number draws so many training
sentences and leaves cutting off the validation part to the tool. Finished cells are skipped.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from headsweep import data
from headsweep.data import Columns, Split
from headsweep.defenses import DEFENSES, Recipe
from headsweep.errors import NothingPruned
from headsweep.evaluate import Answers, Exam, Triggered, answer, judge
from headsweep.export import environment, write_json
from headsweep.healing import FineTune
from headsweep.loading import Runtime, load_suspect
from headsweep.material import Sources
from headsweep.pipeline import Clock, Plan, Purified, describe, purify
from headsweep.progress import Terminal
from headsweep.seeding import stream
from headsweep.settings import configure
from headsweep.strategies import STRATEGIES

TRIGGER_LABELS = {"syntactic": "target", "style": "true"}
TARGET = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("suspects", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--only", nargs="*", default=list(TRIGGER_LABELS))
    parser.add_argument("--method", nargs="*", default=["gradient"])
    parser.add_argument("--rows", nargs="*", type=int, default=[0])
    parser.add_argument("--train-rows", type=int, help="draw so many, dev for validation")
    parser.add_argument("--seeds", nargs="*", type=int, default=[11])
    parser.add_argument("--max-drop", type=float, default=0.02)
    parser.add_argument("--min-accuracy", type=float)
    parser.add_argument("--heal-epochs", type=float, default=2)
    args = parser.parse_args()
    runtime = Runtime()
    exams = {kind: _exam(args.corpus, kind) for kind in args.only}
    known: dict[tuple[str, str], Answers] = {}
    for method in args.method:
        for rows in args.rows:
            for seed in args.seeds:
                for kind in args.only:
                    plain = method.replace("defend:", "").replace(":", "-").replace(",", "-")
                    cell = args.results / f"{kind}-{plain}-n{rows or 'all'}-s{seed}.json"
                    if cell.exists():
                        continue
                    print(f"== {cell.name}", flush=True)
                    for which in ("clean-twin", kind):
                        if (kind, which) not in known:
                            opened = load_suspect(args.suspects / which, runtime)
                            known[kind, which] = answer(opened, exams[kind], runtime)
                    judged = _judge(exams[kind], known[kind, "clean-twin"], known[kind, kind])
                    plan = Plan(args.max_drop, args.min_accuracy, seed=seed, runtime=runtime)
                    sources = _sources(args.corpus, rows, args.train_rows, seed)
                    form = _cell(args.suspects / kind, sources, plan, method, judged, args)
                    form |= {"suspect": kind, "rows": rows or args.train_rows or "all"}
                    args.results.mkdir(parents=True, exist_ok=True)
                    write_json(cell, form)


def _recipe(method: str, heal_epochs: float) -> Recipe:
    name, _, settings = method.removeprefix("defend:").partition(":")
    fields = settings.split(",") if settings else []
    if method.startswith("defend:"):
        recipe: Recipe = configure(DEFENSES[name], fields).recipe()
        return recipe
    return Recipe(configure(STRATEGIES[name], fields), FineTune(epochs=heal_epochs))


def _exam(corpus: Path, kind: str) -> Exam:
    triggered = data.load(corpus / kind / "test.tsv", Columns(drop_empty=True))
    return Exam(
        data.load(corpus / "clean" / "test.tsv"),
        Triggered(triggered, TARGET, TRIGGER_LABELS[kind]),  # type: ignore[arg-type]
        data.load(corpus / "clean" / "dev.tsv"),
    )


def _sources(corpus: Path, rows: int, train_rows: int | None, seed: int) -> Sources:
    train = data.load(corpus / "clean" / "train.tsv")
    if rows:
        return Sources(_draw(train, rows, seed), test=data.load(corpus / "clean" / "test.tsv"))
    part = _draw(train, train_rows, seed) if train_rows else train
    return Sources(part, data.load(corpus / "clean" / "dev.tsv"))


def _draw(split: Split, rows: int, seed: int) -> Split:
    order = torch.randperm(len(split), generator=stream(seed, "rows")).tolist()
    return split.take(sorted(order[:rows]))


def _judge(exam: Exam, twin: Answers, suspect: Answers) -> Any:
    def judged(model: Purified | None) -> dict[str, Any]:
        own = suspect if model is None else answer(model.suspect, exam, Runtime())
        return asdict(judge(exam, ("negative", "positive"), own, twin, suspect))

    return judged


def _cell(
    suspect: Path, sources: Sources, plan: Plan, method: str, judged: Any, args: Any
) -> dict[str, Any]:
    clock, recipe = Clock(), _recipe(method, args.heal_epochs)
    plan = replace(plan, units=recipe.units)
    form: dict[str, Any] = {
        "method": method,
        "strategy": describe(recipe.strategy) if recipe.strategy else None,
        "healing": describe(recipe.healing),
        "bound": {"max_drop": args.max_drop, "min_accuracy": args.min_accuracy},
        "seed": plan.seed,
        "environment": environment(),
        "before": judged(None),
    }
    given = None
    if recipe.strategy is not None:
        try:
            bare = replace(plan, heal=FineTune(epochs=0))
            pruned = purify(suspect, sources, recipe.strategy, bare, progress=Terminal())
        except NothingPruned as outcome:
            return form | {"outcome": str(outcome), "seconds": clock.report()}
        made = pruned.manifest
        form |= {key: made[key] for key in ("units", "mask", "data")}
        form["bound"] = made["bound"]
        form["pruned_count"] = len(made["pruned_units"])
        form["validation"] = made["pruned"]["validation"]
        if pruned.manifest["units"] < 1000:
            form["search"] = made["search"]
        form["prune_seconds"] = made["seconds"]
        form["pruned"] = judged(pruned)
        given = None if made["members"] else pruned.mask
    if getattr(recipe.healing, "epochs", 1):
        heal = replace(plan, mask=given, heal=recipe.healing)
        if given is not None:  # the mask is fixed: no bound on it, whoever chose it
            heal = replace(heal, max_drop=0.99, min_accuracy=None)
        healed = purify(suspect, sources, recipe.strategy, heal, progress=Terminal())
        form["healed"] = judged(healed)
        form["heal_seconds"] = healed.manifest["seconds"]
        form["heal_record"] = {
            key: value for key, value in healed.manifest["heal"].items() if key != "losses"
        }
        form["peak_memory_mib"] = healed.manifest["peak_memory_mib"]
    return form | {"seconds": clock.report()}


if __name__ == "__main__":
    main()
