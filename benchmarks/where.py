r"""Where does a backdoor sit? Parts of a victim exchanged with those of its never-poisoned twin.

    python benchmarks/where.py CORPUS SUSPECTS VICTIMS results/where
    python benchmarks/where.py CORPUS SUSPECTS VICTIMS results/where --only dirty-label-rare-word

*out*: the victim with the twin's part in place of its own: what it loses of its excess LFR needs
that part. *in*: the twin with the victim's part: what it gains, that part does alone. Both were
fine-tuned from the same weights, so a part fits where the other's was; what accuracy says beside it
tells how well. No training, no defender: the twin is known here, so nothing of this is a defense.

One JSON file a model, on the test part; finished ones are skipped. Victims are those that
``guided.py`` makes; which are missing is said. Prints the tables of all.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from claims import Queue
from guided import Runner, Setting
from guided_plan import ADAPTIVE, FRESH, SUSPECTS, Case
from guided_tables import points
from suspects import _commit
from torch import Tensor
from victims import Workshop

from headsweep.export import environment
from headsweep.loading import Runtime, load_suspect

KINDS = {
    "embeddings": r"\.embeddings\.",
    "attention": r"\.attention\.",
    "ffn": r"layer\.\d+\.(intermediate|output)\.",
    "pooler and classifier": r"(pooler|classifier)\.",
}
"""Names of a BERT's parameters; together all of the model, each once."""
THIRDS = ("lower layers", "middle layers", "upper layers")


def parts(layers: int) -> dict[str, str]:
    """Return the parts of a BERT with so many layers, each with what its names look like."""
    cuts = [round(layers * i / 3) for i in range(4)]
    found = dict(KINDS)
    for third, low, high in zip(THIRDS, cuts, cuts[1:], strict=False):
        if low < high:
            found[third] = rf"layer\.({'|'.join(map(str, range(low, high)))})\."
    return found


class Exchange:
    """A model to take apart."""

    needs: tuple[str, ...] = ()

    def __init__(self, case: Case) -> None:
        self.case = case
        self.name = case.name


def exchanged(
    own: Mapping[str, Tensor], others: Mapping[str, Tensor], pattern: str
) -> dict[str, Tensor]:
    """Return weights with those of the other model where names match; raises if none does."""
    names = [name for name in own if re.search(pattern, name)]
    if not names:
        raise SystemExit(f"no parameter is named like {pattern}: not a BERT")
    return dict(own) | {name: others[name] for name in names}


def take_apart(runner: Runner, case: Case) -> dict[str, Any]:
    """Return the figures of a model and its twin with every part exchanged."""
    folder = case.folder(runner.suspects, runner.shop.victims)
    judged = runner.judged(case, folder)
    opened = load_suspect(folder, Runtime())
    twin = load_suspect(case.twin(runner.suspects, runner.shop.victims), Runtime())
    own, clean = (
        {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
        for model in (opened, twin)
    )
    rows = []
    for part, pattern in parts(opened.model.config.num_hidden_layers).items():
        for way, weights in (
            ("out", exchanged(own, clean, pattern)),
            ("in", exchanged(clean, own, pattern)),
        ):
            opened.model.load_state_dict(weights)
            rows.append({"part": part, "way": way} | judged(opened))
    opened.model.load_state_dict(clean)
    made = {"victim": case.name, "trigger": case.trigger, "judged_on": runner.setting.judged_on}
    made |= {"before": judged(None), "rows": rows}
    return made | {
        "twin": judged(opened),
        "environment": environment() | {"commit": _commit()},
    }


def table(forms: Sequence[dict[str, Any]]) -> list[str]:
    """Return a row a model: excess as it is, and with every part out and in."""
    columns = list(dict.fromkeys(row["part"] for form in forms for row in form["rows"]))
    lines = [
        f"| model | as it is | {' | '.join(f'{part}: out / in' for part in columns)} |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for form in forms:
        found = {(row["part"], row["way"]): row for row in form["rows"]}
        cells = [f"{_told(found[part, 'out'])} / {_told(found[part, 'in'])}" for part in columns]
        lines.append(f"| {form['victim']} | {points(form['before'])} | {' | '.join(cells)} |")
    return lines


def _told(row: dict[str, Any]) -> str:
    left, accuracy = (row[name]["value"] for name in ("excess_lfr", "accuracy"))
    return f"{100 * left:+.1f} ({accuracy:.3f})"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("corpus", "suspects", "victims", "results"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--only", nargs="*", help="names of models, such as suspect-style")
    parser.add_argument("--judged-on", type=int, help="so many texts, to try it out; else all")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    setting = Setting(judged_on=args.judged_on)
    runner = Runner(
        args.corpus, args.suspects, Workshop(args.corpus, args.victims), args.results, setting
    )
    cases = [Case(name) for name in args.only or (*SUSPECTS, *FRESH, *ADAPTIVE)]
    there = [case for case in cases if case.folder(args.suspects, args.victims).exists()]
    for case in cases:
        if case not in there:
            print(f"no model {case.name}: benchmarks/victims.py makes it")
    args.results.mkdir(parents=True, exist_ok=True)
    for case in there:
        file = args.results / f"{case.name}.json"
        other = json.loads(file.read_text("utf-8"))["judged_on"] if file.exists() else None
        if file.exists() and other != args.judged_on:
            raise SystemExit(f"{file}: judged on {other or 'all'} texts; take another folder")
    queue = Queue(
        [Exchange(case) for case in there],
        lambda task: take_apart(runner, task.case),
        args.results,
    )
    queue.run()
    files = [args.results / f"{case.name}.json" for case in there]
    made = [json.loads(file.read_text("utf-8")) for file in files if file.exists()]
    print("\n".join(table(made)))
    if queue.failed:
        print(f"{len(queue.failed)} failed: {', '.join(sorted(queue.failed))}")
    return 1 if queue.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
