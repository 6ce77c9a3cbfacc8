r"""How much of a backdoor is left for how much accuracy, after every cycle of one run.

    python benchmarks/frontier.py CORPUS VICTIMS results/frontier \
        --only dirty-label-characters dirty-label-opening --method cycles cycles:attention=0.5
    python benchmarks/frontier.py CORPUS VICTIMS results/frontier --tables

Prune-heal cycles with a bound far off, judged after every cycle from the third: one run shows what
every bound would have given. For choosing among settings of the method, so the texts are *not*
those of the test part. The defender's and those that judge are training sentences that neither the
attacker nor the victim has seen, other ones each; the attack's own rule triggers. Four models a
cycle:

``cycle``: as it ends. ``healed``: and the usual last healing. ``averaged``: the mean of the weights
of this cycle and the two before it, with this cycle's heads gone. ``averaged, healed``: and the
last healing.

One JSON file a run; resumes. VICTIMS are those that ``victims.py`` and ``guided.py`` make; only
those with a trigger by rule.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from claims import Queue
from guided import Setting
from guided_plan import Case
from suspects import _commit, _draw
from torch import Tensor
from victims import SEED, TARGET, by_its_rule, unseen, unused

from headsweep import data
from headsweep.data import Split
from headsweep.demo import LABELS
from headsweep.evaluate import Answers, Exam, Triggered, answer, judge
from headsweep.export import environment
from headsweep.heads import Anatomy, already_pruned
from headsweep.healing import FineTune
from headsweep.loading import Runtime, Suspect, load_suspect
from headsweep.material import Sources
from headsweep.pipeline import purify
from headsweep.plan import Plan
from headsweep.predict import logits
from headsweep.progress import Terminal
from headsweep.search import Choice
from headsweep.settings import configure, describe
from headsweep.strategies.cycles import Cycles
from headsweep.training import copied
from headsweep.view import DefenderView

BOUND = 0.06  # of accuracy on dev; the runs end two cycles below it
AVERAGED = 3
DROPS = (0.01, 0.015, 0.02, 0.03)
CYCLE, MEAN = "cycle", "averaged"
HEALED = {CYCLE: "healed", MEAN: "averaged, healed"}


@dataclass(frozen=True)
class Run:
    """A model, and cycles with settings."""

    case: Case
    method: str
    seed: int = 11
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its file."""
        plain = self.method.replace(":", "-").replace(",", "-")
        return f"{self.case.name}-{plain}-s{self.seed}"


def shares(corpus: Path, rows: int, judged_on: int, seed: int) -> tuple[Sources, Split, Split]:
    """Return what the defender has, and two sets to judge on; nobody has trained on any of it."""
    sources = unseen(corpus, rows, seed)
    rest = unused(data.load(corpus / "clean" / "train.tsv")).without(sources.data)
    if len(rest) < 2 * judged_on:
        raise SystemExit(f"{len(rest)} sentences are left to judge on, {2 * judged_on} asked for")
    drawn = _draw(rest, 2 * judged_on, seed + 1)
    clean, other = (drawn.take(range(i, len(drawn), 2)) for i in (0, 1))
    return sources, clean, other


@dataclass(frozen=True)
class Ground:
    """A victim with all that a run on development texts needs; ``judged`` takes answers."""

    folder: Path
    sources: Sources
    exam: Exam
    twin: Answers
    own: Answers

    @classmethod
    def of(
        cls, corpus: Path, victims: Path, name: str, rows: int, judged_on: int, seed: int
    ) -> Self:
        """Draw the texts, and ask the victim and the never-poisoned twin."""
        folder = victims / name
        sources, clean, other = shares(corpus, rows, judged_on, seed)
        exam = Exam(clean, Triggered(by_its_rule(folder, other), TARGET, "true"), clean)
        twin, own = (
            answer(load_suspect(each, Runtime()), exam, Runtime())
            for each in (victims / f"twin-{SEED}", folder)
        )
        return cls(folder, sources, exam, twin, own)

    def judged(self, model: Suspect | None = None) -> dict[str, Any]:
        """Return the figures of a model; None: of the victim as it is."""
        found = self.own if model is None else answer(model, self.exam, Runtime())
        return asdict(judge(self.exam, LABELS, found, self.twin, self.own))


Look = Callable[[DefenderView], dict[str, Any]]


def watched(cycles: Cycles, look: Look) -> Cycles:
    """Return the cycles, with what ``look`` finds in the record of each."""

    class Watched(Cycles):
        def _flips(self, view: DefenderView) -> dict[str, Any]:
            return super()._flips(view) | look(view)

    return Watched(**{each.name: getattr(cycles, each.name) for each in fields(cycles)})


@dataclass
class Runner:
    """Runs cycles on models."""

    corpus: Path
    victims: Path
    train_rows: int
    judged_on: int

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was left after every cycle."""
        method, _, settings = run.method.partition(":")
        assert method == Cycles.name, run.method
        cycles = configure(Cycles, settings.split(",") if settings else [])
        name = run.case.name
        sizes = (self.train_rows, self.judged_on, run.seed)
        ground = Ground.of(self.corpus, self.victims, name, *sizes)
        encoder = load_suspect(ground.folder, Runtime())
        last: deque[dict[str, Tensor]] = deque(maxlen=AVERAGED)
        healing = FineTune(Setting.heal_epochs).after(cycles)

        def judged(anatomy: Anatomy) -> dict[str, Any]:
            return ground.judged(replace(encoder, anatomy=anatomy, members=()))

        def look(view: DefenderView) -> dict[str, Any]:
            model, choice = view.anatomy.model, Choice(already_pruned(view.anatomy))
            last.append(copied(model))
            form: dict[str, Any] = {}
            if len(last) < AVERAGED:
                return form
            for key, weights in ((CYCLE, last[-1]), (MEAN, averaged(last))):
                model.load_state_dict(weights)
                form[key] = judged(view.anatomy) | {"dev": dev_accuracy(view)}
                healing.heal(view, choice)
                form[HEALED[key]] = judged(view.anatomy) | {"dev": dev_accuracy(view)}
            model.load_state_dict(last[-1])
            return form

        asked = Plan(BOUND, seed=run.seed, runtime=Runtime(), heal=FineTune(0))
        strategy = watched(cycles, look)
        done = purify(ground.folder, ground.sources, strategy, asked, progress=Terminal())
        return {
            "victim": name,
            "method": run.method,
            "strategy": describe(cycles),
            "seed": run.seed,
            "setting": {"train_rows": self.train_rows, "judged_on": self.judged_on},
            "accuracy_before": done.manifest["before"]["validation"]["accuracy"],
            "before": ground.judged(),
            "cycles": done.manifest["search"]["record"]["cycles"],
            "environment": environment() | {"commit": _commit()},
        }


def averaged(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of weights, zero where the last are."""
    last = states[-1]
    return {
        name: torch.stack([each[name] for each in states]).mean(0).masked_fill(tensor == 0, 0)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in last.items()
    }


def dev_accuracy(view: DefenderView) -> float:
    """Return the accuracy of the model, as it is, on the validation texts."""
    said = logits(view.anatomy, view.validation, view.runtime).argmax(-1)
    return float((said == torch.tensor(view.validation.labels)).float().mean())


def at_bound(form: dict[str, Any], key: str, by: str, drop: float) -> dict[str, Any] | None:
    """Return a model of the deepest cycle whose model ``by`` kept accuracy on dev within a drop."""
    kept, stale = None, 0
    for cycle in form["cycles"]:
        if by not in cycle:
            continue
        held = cycle[by]["dev"] >= form["accuracy_before"] - drop
        kept, stale = (cycle, 0) if held else (kept, stale + 1)
        if stale == Cycles().patience:
            break
    return None if kept is None else kept[key] | {"pruned": kept["pruned"]}


def told(form: dict[str, Any], found: dict[str, Any] | None) -> str:
    """Return points left, and in brackets the change of accuracy and the heads gone."""
    if found is None:
        return "none held"
    change = 100 * (found["accuracy"]["value"] - form["before"]["accuracy"]["value"])
    return f"{100 * found['excess_lfr']['value']:.0f} ({change:+.1f}, {found['pruned']})"


WAYS = [*((key, key) for key in (CYCLE, MEAN, *HEALED.values())), *((HEALED[k], k) for k in HEALED)]
"""Models and what is held to the bound: the model itself, or what it was healed from."""


def tables(forms: Sequence[dict[str, Any]]) -> list[str]:
    """Return a row a run and way: what each bound would have given."""
    names = [f"at {drop:g}" for drop in DROPS]
    lines = [f"| model | method | as it is | way | {' | '.join(names)} |", "|---" * 8 + "|"]
    for form in forms:
        start = f"{100 * form['before']['excess_lfr']['value']:.0f}"
        for key, by in WAYS:
            cells = " | ".join(told(form, at_bound(form, key, by, drop)) for drop in DROPS)
            way = key if key == by else f"{key}, bound before"
            lines.append(f"| {form['victim']} | {form['method']} | {start} | {way} | {cells} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("corpus", "victims", "results"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="names of models")
    parser.add_argument("--method", nargs="*", default=["cycles"], help="cycles:FIELD=VALUE,...")
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
        runs = [Run(Case(name), method, args.seed) for method in args.method for name in args.only]
        queue = Queue(runs, runner.do, args.results)
        queue.run()
        failed = queue.failed
    files = sorted(args.results.glob("*.json"))
    print("\n".join(tables([json.loads(file.read_text("utf-8")) for file in files])))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
