r"""Probes and auto against everything else: one resumable command, the most telling cells first.

    python benchmarks/guided.py CORPUS SUSPECTS VICTIMS results/guided-victims --jobs 2 \
        --stop-after 90
    python benchmarks/guided.py CORPUS SUSPECTS VICTIMS results/guided-victims --list
    python benchmarks/guided.py CORPUS SUSPECTS VICTIMS results/guided-victims \
        --only suspect-style --part leave-out ablation
    python benchmarks/guided.py CORPUS SUSPECTS VICTIMS results/guided-victims \
        --cells '*-gradient-heal-hot-*-s12' --list

CORPUS is a folder with clean/, syntactic/ and style/ (train, dev and test as .tsv), SUSPECTS one
with the models syntactic/, style/ and clean-twin/. Victims that are missing in VICTIMS are made, as
``victims.py`` does. One JSON file a cell; finished cells are skipped, and several processes may
work on the same folders. ``guided_plan.py`` says what is run in which order: leaving one family
out, what is due to what, other methods, ``auto``, FFN groups.

``family``
    every probe family but the attack's own trigger, template or manner: its kin and relatives with
    other words are among the probes. Left out where there are none.
``without``
    the attack's family and all its kin left out.

Training sentences are drawn from all, and attacker and victim trained on them too; with
``--unseen`` from those that neither had, as where a model comes from somebody else.

Dev decides, the last figures are on the test part. One thread a process. ``guided_tables.py``
prints the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from claims import Queue
from guided_plan import AS_LONG, PARTS, Case, Cell, Make, plan
from suspects import TRIGGER_LABELS, _automatic, _cell, _draw, _judge, _sources
from victims import TARGET, Workshop, by_its_rule, unseen

from headsweep import data
from headsweep.attack import RECORD
from headsweep.data import Columns
from headsweep.evaluate import Answers, Exam, Triggered, answer
from headsweep.loading import Runtime, load_suspect
from headsweep.material import Sources
from headsweep.plan import Plan
from headsweep.probing import RuleProber, check_apart
from headsweep.strategies.cycles import Cycles


@dataclass(frozen=True)
class Setting:
    """What all cells of a folder share."""

    train_rows: int = 1200
    max_drop: float = 0.02
    heal_epochs: float = 1.0
    budget: str = "10m"
    judged_on: int | None = None
    unseen: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it for a cell; cells are older than ``unseen``."""
        form = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return form if self.unseen else {k: v for k, v in form.items() if k != "unseen"}


@dataclass
class Runner:
    """Runs cells; remembers the answers of suspects and twins."""

    corpus: Path
    suspects: Path
    shop: Workshop
    results: Path
    setting: Setting
    known: dict[Case, tuple[Exam, Answers, Answers]] = field(default_factory=dict)

    def done(self, task: Any) -> bool:
        """Tell whether a task's file is there, and a victim's folder with it."""
        there = (self.results / f"{task.name}.json").exists()
        return there and (not isinstance(task, Make) or self.shop.has(task.victim))

    def do(self, task: Any) -> dict[str, Any]:
        """Make a victim, or purify one; return its form."""
        if isinstance(task, Make):
            return self.shop.make(task.victim)
        assert isinstance(task, Cell)
        case, method = task.case, task.asked
        folder = case.folder(self.suspects, self.shop.victims)
        prober = self._prober(task, folder)
        sources = self.sources(task.seed)
        asked = Plan(self.setting.max_drop, seed=task.seed, runtime=Runtime(), prober=prober)
        form = {"victim": case.name, "trigger": case.trigger, "part": task.part}
        form |= {"probes_are": task.probes, "healed_on": task.on, "setting": self.setting.to_json()}
        if task.prune_drop is not None:
            asked = replace(asked, prune_drop=task.prune_drop)
        own = {"method": task.method, "consistency": task.consistency, "units_asked": task.units}
        own |= {"prune_drop": task.prune_drop}
        if task.like is not None:
            count = self._matched(task)
            if not count:
                return form | own | {"outcome": f"{task.like} removed no head: no number to match"}
            method = f"random:count={count}"
            if task.on == "clean":
                method = f"defend:{method},epochs={self.setting.heal_epochs}"
        if method.startswith(AS_LONG):
            more = method.removeprefix(AS_LONG).replace(":", ",")
            method = f"defend:ft:epochs={self._epochs_of_cycles(folder)},lr={Cycles().lr}{more}"
        run = _automatic if method == "auto" else _cell
        judged, args = self.judged(case, folder), self._args(task)
        return form | run(folder, sources, asked, judged, args, method) | own

    def _args(self, task: Cell) -> SimpleNamespace:
        """Return what suspects.py reads from its command line."""
        return SimpleNamespace(
            max_drop=self.setting.max_drop,
            min_accuracy=None,
            heal_epochs=self.setting.heal_epochs,
            heal_on=task.on,
            units=task.units,
            consistency=task.consistency,
            budget=self.setting.budget,
        )

    def _prober(self, task: Cell, folder: Path) -> RuleProber | None:
        if task.probes == "no-probes":
            return None
        prober = task.case.probers()[task.probes]
        if task.case.own and not task.case.published:  # what was planted, not what the name says
            check_apart(prober, json.loads((folder / RECORD).read_text("utf-8"))["trigger"])
        return prober

    def sources(self, seed: int) -> Sources:
        """Return what the defender has: training sentences, and dev to decide."""
        rows = self.setting.train_rows
        if not self.setting.unseen:
            return _sources(self.corpus, 0, rows, seed)
        return unseen(self.corpus, rows, seed)

    def _epochs_of_cycles(self, folder: Path) -> int:
        """Return how many epochs pass as many texts as all cycles and the last healing do."""
        train = self.sources(0).data
        units = load_suspect(folder, Runtime()).anatomy.layout.units
        return round(Cycles().healed(units, len(train)) / len(train) + self.setting.heal_epochs)

    def _matched(self, task: Cell) -> int:
        """Return how many heads the cell removed that a control is to match."""
        like = json.loads((self.results / f"{task.like}.json").read_text("utf-8"))
        return int(like.get("pruned_count", 0))

    def judged(self, case: Case, folder: Path) -> Any:
        """Return what judges a model on the test part, with the twin for the floor."""
        opened = load_suspect(folder, Runtime())
        if case not in self.known:
            exam = self._exam(case, folder)
            twin = load_suspect(case.twin(self.suspects, self.shop.victims), Runtime())
            both = (answer(model, exam, Runtime()) for model in (twin, opened))
            self.known[case] = (exam, *both)
        exam, of_twin, of_suspect = self.known[case]
        return _judge(exam, of_twin, of_suspect, opened)

    def _exam(self, case: Case, folder: Path) -> Exam:
        clean = {part: self._some(self.corpus / "clean" / f"{part}.tsv") for part in PARTS_USED}
        if case.published:
            texts = self._some(self.corpus / case.published / "test.tsv", Columns(drop_empty=True))
            kind = TRIGGER_LABELS[case.published]
        else:
            texts, kind = by_its_rule(folder, clean["test"]), "true"
        return Exam(clean["test"], Triggered(texts, TARGET, kind), clean["dev"])  # type: ignore[arg-type]

    def _some(self, file: Path, columns: Columns = Columns()) -> data.Split:
        found = data.load(file, columns)
        return _draw(found, self.setting.judged_on, 0) if self.setting.judged_on else found


PARTS_USED = ("dev", "test")


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = _parser().parse_args(given)
    setting = Setting(
        args.train_rows,
        args.max_drop,
        args.heal_epochs,
        args.budget,
        args.judged_on,
        args.unseen,
    )
    shop = Workshop(args.corpus, args.victims, args.model)
    runner = Runner(args.corpus, args.suspects, shop, args.results, setting)
    tasks = plan(args.only, args.part, args.cells)
    if not tasks:
        raise SystemExit("no cell of the plan is of these models, parts and names; see --list")
    _check_setting(args.results, tasks, setting)
    if setting.unseen and any(isinstance(t, Cell) and not t.case.own for t in tasks):
        raise SystemExit("--unseen: the suspects have seen every sentence; name victims by --only")
    if args.list:
        for task in tasks:
            print(f"{'done' if runner.done(task) else '    '} {task.name}")
        return 0
    args.results.mkdir(parents=True, exist_ok=True)
    if args.jobs > 1:
        return _spawn(given, args.jobs)
    torch.set_num_threads(1)
    stop = None if args.stop_after is None else 60 * args.stop_after
    queue = Queue(tasks, runner.do, args.results, stop, runner.done)
    left = queue.run()
    failed = f", {len(queue.failed)} failed: {', '.join(sorted(queue.failed))}"
    print(f"{len(tasks) - len(left)} of {len(tasks)} done{failed if queue.failed else ''}")
    return 1 if queue.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("corpus", "suspects", "victims", "results"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--only", nargs="*", help="names of models, such as suspect-style")
    parser.add_argument("--part", nargs="*", choices=PARTS)
    parser.add_argument(
        "--cells", nargs="*", metavar="PATTERN", help="names as --list prints them, '*-heal-hot-*'"
    )
    parser.add_argument("--list", action="store_true", help="print the cells in order, run none")
    parser.add_argument("--jobs", type=int, default=1, help="processes, a thread each")
    parser.add_argument("--stop-after", type=float, metavar="MINUTES", help="begin no cell later")
    parser.add_argument("--model", type=Path, help="what victims are made from")
    parser.add_argument("--train-rows", type=int, default=Setting.train_rows, help="0: all")
    parser.add_argument(
        "--unseen", action="store_true", help="train on sentences that made no victim"
    )
    parser.add_argument("--max-drop", type=float, default=Setting.max_drop)
    parser.add_argument("--heal-epochs", type=float, default=Setting.heal_epochs)
    parser.add_argument("--budget", default=Setting.budget, help="of auto")
    parser.add_argument("--judged-on", type=int, help="so many texts, to try it out; else all")
    return parser


def _check_setting(results: Path, tasks: Sequence[Any], setting: Setting) -> None:
    for task in tasks:
        path = results / f"{task.name}.json"
        if isinstance(task, Cell) and path.exists():
            other = json.loads(path.read_text("utf-8"))["setting"]
            if other != setting.to_json():
                told = f"{path}: made with {other}, not {setting.to_json()}"
                raise SystemExit(f"{told}; give the same options, or another folder")


def _spawn(given: Sequence[str], jobs: int) -> int:
    """Run this command so many times at once; return the worst exit code."""
    at = [i for i, word in enumerate(given) if word == "--jobs"]
    plain = [word for i, word in enumerate(given) if i not in at and i - 1 not in at]
    plain = [word for word in plain if not word.startswith("--jobs=")]
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__)), *plain]
    running = [subprocess.Popen(command, env=os.environ | one) for _ in range(jobs)]
    try:
        return max(process.wait() for process in running)
    except KeyboardInterrupt:
        return max(process.wait() for process in running)


if __name__ == "__main__":
    raise SystemExit(main())
