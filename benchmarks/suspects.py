"""Purify suspects whose trigger is known to the judge, one JSON file a cell; resumes.

    python benchmarks/suspects.py CORPUS SUSPECTS results/suspects --rows 0 50 200

CORPUS is a folder with clean/, syntactic/ and style/ (train, dev and test as .tsv), SUSPECTS a
folder with the models syntactic/, style/ and clean-twin/. ``--rows 0`` takes the whole training
set with dev as validation data; any other number draws so many training sentences at random and
leaves cutting off the validation part to the tool. Finished cells are skipped.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from headsweep import data
from headsweep.data import Columns, Split
from headsweep.errors import NothingPruned
from headsweep.evaluate import Answers, Exam, Triggered, answer, judge
from headsweep.export import environment, write_json
from headsweep.healing import FineTune
from headsweep.loading import Runtime, load_suspect
from headsweep.material import Sources
from headsweep.pipeline import Clock, Plan, describe, purify
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
    parser.add_argument("--strategy", nargs="*", default=["gradient"])
    parser.add_argument("--set", nargs="*", default=[], help="fields, for a single strategy")
    parser.add_argument("--tag", default="", help="appended to the cell's name")
    parser.add_argument("--rows", nargs="*", type=int, default=[0])
    parser.add_argument("--seeds", nargs="*", type=int, default=[11])
    parser.add_argument("--max-drop", type=float, default=0.02)
    parser.add_argument("--min-accuracy", type=float)
    parser.add_argument("--heal-epochs", type=float, default=2)
    parser.add_argument("--heal-rows", type=int, help="heal on so many sentences only")
    args = parser.parse_args()
    runtime = Runtime()
    for kind in args.only:
        exam = _exam(args.corpus, kind)
        known: dict[str, Answers] = {}
        for rows in args.rows:
            for seed in args.seeds:
                for name in args.strategy:
                    cell = f"{kind}-{name}{args.tag}-n{rows or 'all'}-s{seed}.json"
                    if (args.results / cell).exists():
                        continue
                    print(f"== {cell}", flush=True)
                    for which in ("clean-twin", kind):
                        if which not in known:
                            opened = load_suspect(args.suspects / which, runtime)
                            known[which] = answer(opened, exam, runtime)
                    plan = Plan(args.max_drop, args.min_accuracy, seed=seed, runtime=runtime)
                    job = (kind, args, exam, known, rows, plan)
                    form = _cell(job, configure(STRATEGIES[name], args.set))
                    args.results.mkdir(parents=True, exist_ok=True)
                    write_json(args.results / cell, form)


def _exam(corpus: Path, kind: str) -> Exam:
    triggered = data.load(corpus / kind / "test.tsv", Columns(drop_empty=True))
    return Exam(
        data.load(corpus / "clean" / "test.tsv"),
        Triggered(triggered, TARGET, TRIGGER_LABELS[kind]),  # type: ignore[arg-type]
        data.load(corpus / "clean" / "dev.tsv"),
    )


def _sources(corpus: Path, rows: int, seed: int) -> Sources:
    train = data.load(corpus / "clean" / "train.tsv")
    test = data.load(corpus / "clean" / "test.tsv")
    if not rows:
        return Sources(train, data.load(corpus / "clean" / "dev.tsv"), test)
    return Sources(_draw(train, rows, seed), test=test)


def _draw(split: Split, rows: int, seed: int) -> Split:
    order = torch.randperm(len(split), generator=stream(seed, "rows")).tolist()
    return split.take(sorted(order[:rows]))


def _cell(job: Any, strategy: Any) -> dict[str, Any]:
    kind, args, exam, known, rows, plan = job
    clock = Clock()
    sources = _sources(args.corpus, rows, plan.seed)
    form: dict[str, Any] = {
        "suspect": kind,
        "strategy": describe(strategy),
        "rows": rows or "all",
        "seed": plan.seed,
        "heal": {"epochs": args.heal_epochs, "rows": args.heal_rows},
        "environment": environment(),
    }
    labels = ("negative", "positive")

    def judged(answers: Answers) -> dict[str, Any]:
        return asdict(judge(exam, labels, answers, known["clean-twin"], known[kind]))

    form["before"], form["floor"] = judged(known[kind]), judged(known["clean-twin"])
    try:
        bare = replace(plan, heal=FineTune(epochs=0))
        pruned = purify(args.suspects / kind, sources, strategy, bare, progress=Terminal())
    except NothingPruned as outcome:
        return form | {"outcome": str(outcome), "seconds": clock.report()}
    form["pruned"] = judged(answer(pruned.suspect, exam, plan.runtime))
    manifest = pruned.manifest
    form |= {key: manifest[key] for key in ("bound", "pruned_units", "mask", "search", "data")}
    form["purify_seconds"] = manifest["seconds"]
    form["seconds_pruned"] = clock.report()
    if args.heal_epochs:
        if args.heal_rows:
            fewer = _draw(pruned_training(sources), args.heal_rows, plan.seed)
            sources = replace(sources, data=fewer)
        heal = replace(plan, mask=pruned.mask, heal=FineTune(epochs=args.heal_epochs))
        healed = purify(args.suspects / kind, sources, strategy, heal, progress=Terminal())
        form["healed"] = judged(answer(healed.suspect, exam, plan.runtime))
        form["heal_seconds"] = healed.manifest["seconds"]
        form["peak_memory_mib"] = healed.manifest["peak_memory_mib"]
    return form | {"seconds": clock.report()}


def pruned_training(sources: Sources) -> Split:
    assert isinstance(sources.data, Split)
    return sources.data


if __name__ == "__main__":
    main()
