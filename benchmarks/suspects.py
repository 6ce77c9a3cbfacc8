r"""Purify suspects whose trigger is known to the judge, one JSON file a cell; resumes.

    python benchmarks/suspects.py CORPUS SUSPECTS results/suspects --rows 0 50 200
    python benchmarks/suspects.py CORPUS SUSPECTS results/comparison --method gradient \\
        defend:pure random:count=20 --train-rows 2000 --min-accuracy 0.85 --heal-epochs 1
    python benchmarks/suspects.py CORPUS SUSPECTS results/guided --method probe-guided none \\
        --heal-on probes --without syntactic --train-rows 1200 --min-accuracy 0.85

CORPUS is a folder with clean/, syntactic/ and style/ (train, dev and test as .tsv), SUSPECTS a
folder with the models syntactic/, style/ and clean-twin/. A method is a strategy, ``none``,
``auto``, or ``defend:`` and a baseline, with fields behind a colon. Probes are never of the
template or manner of the suspect's attack; ``--without`` leaves out whole families with their kin.

``--rows 0`` takes the training set (or
``--train-rows`` of it) with dev as validation data; any other number draws so many training
sentences and leaves cutting off the validation part to the tool. Finished cells are skipped.
"""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from headsweep import data
from headsweep.auto import purify_automatically, seconds_of
from headsweep.candidates import Auto
from headsweep.cost import Clock
from headsweep.data import Columns, Split
from headsweep.defenses import DEFENSES, Recipe
from headsweep.errors import NothingPruned, UserError
from headsweep.evaluate import Answers, Exam, Triggered, answer, judge
from headsweep.export import environment, write_json
from headsweep.heads import HEADS, Anatomy, Units
from headsweep.healing import FineTune
from headsweep.loading import Runtime, Suspect, load_suspect
from headsweep.material import Sources
from headsweep.pipeline import purify
from headsweep.plan import Plan, usual_healing
from headsweep.probing import RuleProber, apart_from, check_apart, without
from headsweep.progress import Terminal
from headsweep.search import Choice
from headsweep.seeding import stream
from headsweep.settings import configure, describe
from headsweep.strategies import STRATEGIES, needs_probes
from headsweep.view import DefenderView

TRIGGER_LABELS = {"syntactic": "target", "style": "true"}
CORPORA = {"syntactic": "HiddenKiller", "style": "StyleBkd"}
TARGET = 1


UNITS = {
    "heads": ("", HEADS),
    "heads,ffn": ("-ffn", Units(ffn=True)),
    "ffn": ("-ffn-only", Units(heads=False, ffn=True)),
}
"""What may be pruned: how a cell's name says it, and the units."""


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
    parser.add_argument("--heal-on", choices=("clean", "probes"), default="clean")
    parser.add_argument("--units", choices=UNITS, default="heads", help="what may be pruned")
    parser.add_argument("--consistency", type=float, default=0.0)
    parser.add_argument("--budget", default="10m", help="of the method auto")
    parser.add_argument("--without", nargs="*", default=[], help="probe families to leave out")
    args = parser.parse_args()
    runtime = Runtime()
    exams = {kind: _exam(args.corpus, kind) for kind in args.only}
    known: dict[str, tuple[Answers, ...]] = {}
    for method in args.method:
        for rows in args.rows:
            for seed in args.seeds:
                for kind in args.only:
                    plain = method.replace("defend:", "").replace(":", "-").replace(",", "-")
                    plain += _told(args, method)
                    cell = args.results / f"{kind}-{plain}-n{rows or 'all'}-s{seed}.json"
                    if cell.exists():
                        continue
                    print(f"== {cell.name}", flush=True)
                    opened = load_suspect(args.suspects / kind, runtime)
                    if kind not in known:
                        twin = load_suspect(args.suspects / "clean-twin", runtime)
                        both = (answer(model, exams[kind], runtime) for model in (twin, opened))
                        known[kind] = (*both,)
                    judged = _judge(exams[kind], *known[kind], opened)
                    plan = Plan(args.max_drop, args.min_accuracy, seed=seed, runtime=runtime)
                    plan = replace(plan, prober=_prober(method, kind, args))
                    sources = _sources(args.corpus, rows, args.train_rows, seed)
                    run = _automatic if method == "auto" else _cell
                    form = run(args.suspects / kind, sources, plan, judged, args, method)
                    form |= {"suspect": kind, "rows": rows or args.train_rows or "all"}
                    args.results.mkdir(parents=True, exist_ok=True)
                    write_json(cell, form)


def _told(args: argparse.Namespace, method: str) -> str:
    """Return what a cell's name says of healing and probes, beside its method."""
    heal = "-heal-probes" if args.heal_on == "probes" else ""
    alike = f"-consistency={args.consistency:g}" if args.consistency else ""
    units = UNITS[args.units][0]
    units += f"-{args.budget}" if method == "auto" else ""
    return units + heal + alike + "".join(f"-without-{name}" for name in args.without)


def _prober(method: str, kind: str, args: argparse.Namespace) -> RuleProber | None:
    """Return what makes the probes: never those of the attack's own template or manner."""
    recipe = _recipe(method, args)
    if method != "auto" and not (
        needs_probes(recipe.strategy) or getattr(recipe.healing, "needs_probes", False)
    ):
        return None
    own = {"corpus": CORPORA[kind]}
    prober = RuleProber(tuple(n for n in apart_from(own) if n in without(args.without)))
    check_apart(prober, own)
    return prober


def _recipe(method: str, args: argparse.Namespace) -> Recipe:
    name, _, settings = method.removeprefix("defend:").partition(":")
    fields = settings.split(",") if settings else []
    if args.heal_on == HOTTEST:
        heal = usual_healing(Plan(), None)
    else:
        heal = FineTune(args.heal_epochs, on=args.heal_on, consistency=args.consistency)
    units = UNITS[args.units][1]
    if name in ("none", "auto"):
        return Recipe(None, heal, units)
    if method.startswith("defend:"):
        recipe: Recipe = configure(DEFENSES[name], fields).recipe()
        return recipe
    strategy = configure(STRATEGIES[name], fields)
    return Recipe(strategy, heal.after(strategy), units)


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


def _commit() -> str:
    """Return the commit that this file is of, marked where the tree has changes."""
    folder = Path(__file__).parent
    told = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(told, capture_output=True, text=True, check=False).stdout.strip()


def _judge(exam: Exam, twin: Answers, suspect: Answers, encoder: Suspect) -> Any:
    def judged(model: Suspect | Anatomy | None) -> dict[str, Any]:
        if isinstance(model, Anatomy):
            model = replace(encoder, anatomy=model, members=())
        own = suspect if model is None else answer(model, exam, Runtime())
        return asdict(judge(exam, ("negative", "positive"), own, twin, suspect))

    return judged


HOTTEST = "hot"  # healed as ``purify`` does unasked
RECORDED = ("layer_weights", "put_back", "lr", "tried")  # of healing


def _cell(
    suspect: Path, sources: Sources, plan: Plan, judged: Any, args: Any, method: str
) -> dict[str, Any]:
    clock, recipe = Clock(), _recipe(method, args)
    searched = recipe.strategy is not None or not method.startswith("defend:")
    plan = replace(plan, units=recipe.units, bounded=searched)
    form: dict[str, Any] = {
        "method": method,
        "strategy": describe(recipe.strategy) if recipe.strategy else None,
        "healing": describe(recipe.healing),
        "bound": {"max_drop": args.max_drop, "min_accuracy": args.min_accuracy},
        "seed": plan.seed,
        "environment": environment() | {"commit": _commit()},
        "before": judged(None),
    }
    between: dict[str, Any] = {}

    def look(view: DefenderView, choice: Choice) -> None:
        if choice.mask.pruned:
            between.update(judged(view.anatomy))

    plan = replace(plan, heal=recipe.healing)
    try:
        done = purify(suspect, sources, recipe.strategy, plan, progress=Terminal(), look=look)
    except NothingPruned as outcome:
        return form | {"outcome": str(outcome), "seconds": clock.report()}
    made = done.manifest
    form |= {key: made[key] for key in ("units", "data", "bound", "peak_memory_mib", "probes")}
    form["purify_seconds"] = made["seconds"]
    form["heal_record"] = {k: v for k, v in made["heal"].items() if k in RECORDED}
    form["after"] = made["after"]
    if recipe.strategy is not None:
        form["pruned_count"] = len(made["pruned_units"])
        form["validation"] = made["pruned"]["validation"]
        form["pruned"] = between or None
        form |= {key: made[key] for key in ("mask", "search") if made["units"] < 1000}
    if getattr(recipe.healing, "epochs", 1):
        form["healed"] = judged(done.suspect)
    return form | {"seconds": clock.report()}


def _automatic(
    suspect: Path, sources: Sources, plan: Plan, judged: Any, args: Any, method: str
) -> dict[str, Any]:
    clock, prober = Clock(), plan.prober
    assert isinstance(prober, RuleProber)
    auto = Auto(seconds_of(args.budget), families=prober.families)
    plan = replace(plan, prober=None, heal=FineTune(args.heal_epochs))
    form: dict[str, Any] = {
        "method": method,
        "bound": {"max_drop": args.max_drop, "min_accuracy": args.min_accuracy},
        "seed": plan.seed,
        "environment": environment() | {"commit": _commit()},
        "before": judged(None),
    }
    try:
        done = purify_automatically(suspect, sources, auto, plan, progress=Terminal())
    except (NothingPruned, UserError) as outcome:
        return form | {"outcome": str(outcome), "seconds": clock.report()}
    made = done.manifest
    form |= {key: made[key] for key in ("auto", "units", "data", "mask", "probes")}
    form["pruned_count"] = len(made["pruned_units"])
    return form | {"healed": judged(done.suspect), "seconds": clock.report()}


if __name__ == "__main__":
    main()
