r"""Leave one family out: purify victims with probes of the attack's family, and without; resumes.

    python benchmarks/guided.py CORPUS VICTIMS results/guided-victims
    python benchmarks/guided.py CORPUS VICTIMS results/guided-victims --only dirty-label-style \\
        --method probe-guided auto --heal-on probes --probes without

CORPUS is a folder with clean/ and the published sets, VICTIMS what ``victims.py`` makes: a folder
for each victim with its attack.json, and the twin twin-11/. One JSON file a cell: a victim, a
method, and which probes.

``family``
    every family but the attack's own trigger, template or manner: its kin and relatives with other
    words are among the probes. Left out where there are none.
``without``
    the attack's family and all its kin left out.

A method is ``auto`` (with --budget), ``none``, a strategy, or ``defend:`` and a baseline, fields
behind a colon. Methods that see no probes run once, as ``no-probes``. The last figures are on the
test part; dev decides. Finished cells are skipped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suspects import TRIGGER_LABELS, _automatic, _cell, _judge, _recipe, _sources, _told

from headsweep import data
from headsweep.attack import RECORD
from headsweep.attacks.scene import triggered
from headsweep.data import Columns
from headsweep.evaluate import Answers, Exam, Triggered, answer
from headsweep.export import write_json
from headsweep.loading import Runtime, Suspect, load_suspect
from headsweep.pipeline import Plan
from headsweep.probing import KIN, TEMPLATES, RuleProber, apart_from, check_apart, without
from headsweep.settings import configure
from headsweep.strategies import needs_probes
from headsweep.triggers import TRIGGERS, ByRule

PUBLISHED = "published-"
FAMILY_OF = {family: corpus for corpus, family in TEMPLATES.items()}
METHODS = ("probe-guided", "cycles", "none", "gradient")


@dataclass(frozen=True)
class Victim:
    """A victim on disk: its folder, the trigger that its record names, and its target."""

    folder: Path
    record: dict[str, Any]

    @property
    def published(self) -> str | None:
        """The published set that its trigger is from, if it is."""
        _, found, kind = self.folder.name.partition(PUBLISHED)
        return kind if found else None

    @property
    def trigger(self) -> dict[str, Any]:
        """Its trigger, as ``check_apart`` takes it."""
        if self.published:
            return {"corpus": FAMILY_OF[self.published]}
        found: dict[str, Any] = self.record["trigger"]
        return found

    @property
    def family(self) -> str:
        """The family of its trigger."""
        return self.published or str(self.record["trigger"]["name"])

    def probers(self) -> dict[str, RuleProber]:
        """Return the probes that may be tried, by condition; each is checked."""
        allowed = apart_from(self.trigger)
        left = tuple(name for name in allowed if name in without([self.family]))
        made = {"without": RuleProber(left)}
        if set(allowed) & set(KIN.get(self.family, (self.family,))):
            made = {"family": RuleProber(allowed)} | made
        for prober in made.values():
            check_apart(prober, self.trigger)
        return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("victims", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--only", nargs="*", help="names of victims")
    parser.add_argument("--method", nargs="*", default=list(METHODS))
    parser.add_argument("--probes", nargs="*", default=["family", "without"])
    parser.add_argument("--twin", default="twin-11")
    parser.add_argument("--train-rows", type=int, default=1200)
    parser.add_argument("--seeds", nargs="*", type=int, default=[11])
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--min-accuracy", type=float)
    parser.add_argument("--heal-epochs", type=float, default=1)
    parser.add_argument("--heal-on", choices=("clean", "probes"), default="clean")
    parser.add_argument("--ffn", action="store_true", help="prune groups of FFN neurons too")
    parser.add_argument("--consistency", type=float, default=0.0)
    parser.add_argument("--budget", default="10m", help="of auto")
    args = parser.parse_args()
    args.without = []
    for victim in _victims(args.victims, args.only):
        for method in args.method:
            for seed in args.seeds:
                for condition, prober in _conditions(victim, method, args):
                    _run(victim, method, seed, condition, prober, args)


def _victims(folder: Path, only: list[str] | None) -> Iterator[Victim]:
    found = sorted(path.parent for path in folder.glob(f"*/{RECORD}"))
    if not found:
        raise SystemExit(f"{folder}: no folder with {RECORD}; make victims with victims.py")
    for path in found:
        if only is None or path.name in only:
            yield Victim(path, json.loads((path / RECORD).read_text(encoding="utf-8")))


def _conditions(
    victim: Victim, method: str, args: argparse.Namespace
) -> list[tuple[str, RuleProber | None]]:
    if method != "auto":
        recipe = _recipe(method, args)
        if not (needs_probes(recipe.strategy) or getattr(recipe.healing, "needs_probes", False)):
            return [("no-probes", None)]
    return [(name, prober) for name, prober in victim.probers().items() if name in args.probes]


def _run(
    victim: Victim,
    method: str,
    seed: int,
    condition: str,
    prober: RuleProber | None,
    args: argparse.Namespace,
) -> None:
    plain = method.replace("defend:", "").replace(":", "-").replace(",", "-")
    plain += _told(args, method)
    cell = args.results / f"{victim.folder.name}-{plain}-{condition}-s{seed}.json"
    if cell.exists():
        return
    print(f"== {cell.name}", flush=True)
    runtime = Runtime()
    judged = _judged(victim, args, runtime)
    plan = Plan(args.max_drop, args.min_accuracy, seed=seed, runtime=runtime, prober=prober)
    sources = _sources(args.corpus, 0, args.train_rows, seed)
    run = _automatic if method == "auto" else _cell
    form = run(victim.folder, sources, plan, judged, args, method)
    form |= {"victim": victim.folder.name, "trigger": victim.trigger, "probes_are": condition}
    args.results.mkdir(parents=True, exist_ok=True)
    write_json(cell, form | {"rows": args.train_rows})


def _judged(victim: Victim, args: argparse.Namespace, runtime: Runtime) -> Any:
    """Return what judges a model on the test part, with the twin for the floor."""
    opened = load_suspect(victim.folder, runtime)
    target = opened.labels.index(victim.record["target"])
    test = data.load(args.corpus / "clean" / "test.tsv")
    if victim.published:
        file = args.corpus / victim.published / "test.tsv"
        texts, kind = data.load(file, Columns(drop_empty=True)), TRIGGER_LABELS[victim.published]
    else:
        rule = victim.record["trigger"]
        fields = [f"{name}={value}" for name, value in rule["fields"].items()]
        rewriter = ByRule(configure(TRIGGERS[rule["name"]], fields))
        others = test.take(i for i, label in enumerate(test.labels) if label != target)
        made = triggered(others, rewriter, victim.record["seed"], opened, runtime.max_length)
        texts, kind = made.split, "true"
    exam = Exam(
        test,
        Triggered(texts, target, kind),  # type: ignore[arg-type]
        data.load(args.corpus / "clean" / "dev.tsv"),
    )
    twin: Suspect = load_suspect(args.victims / args.twin, runtime)
    both: tuple[Answers, ...] = tuple(answer(model, exam, runtime) for model in (twin, opened))
    return _judge(exam, *both, opened)


if __name__ == "__main__":
    main()
