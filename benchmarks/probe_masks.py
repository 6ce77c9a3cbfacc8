r"""How far pruning alone can go, by whose contribution: a diagnosis that knows the trigger.

    python benchmarks/probe_masks.py CORPUS SUSPECTS results/guided style

Reads ``signal-KIND.json`` in the results folder (``probe_signal.py`` writes it) and prunes the
suspect by several scores to several depths, without healing: the contribution to the *real*
trigger's flips (which no defender has), that to the probes' with and without kin, at several
weights against clean importance. Scores of --only replace those of an earlier run. Everything is
measured on the *dev* parts. What it is for: to tell a weak signal from heads that cannot go.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from suspects import TARGET, TRIGGER_LABELS, _commit, _draw
from torch import Tensor

from headsweep import data
from headsweep.data import Columns
from headsweep.evaluate import Answers, Exam, Triggered, answer, judge
from headsweep.export import environment, write_json
from headsweep.flips import Flips
from headsweep.heads import HeadMask
from headsweep.importance import standardised
from headsweep.loading import Runtime, Suspect, load_suspect
from headsweep.predict import encode, logits
from headsweep.progress import Terminal
from headsweep.search import candidates
from headsweep.strategies.probe_guided import combined


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("suspects", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("kind", choices=list(TRIGGER_LABELS))
    parser.add_argument("--depths", nargs="*", type=int, default=[8, 16, 24, 32])
    parser.add_argument("--only", nargs="*", help="names of scores")
    parser.add_argument("--texts", type=int, default=400)
    args = parser.parse_args()
    signal = json.loads((args.results / f"signal-{args.kind}.json").read_text(encoding="utf-8"))
    suspect = load_suspect(args.suspects / args.kind, Runtime())
    exam = _exam(args.corpus, args.kind, args.texts)
    twin = answer(load_suspect(args.suspects / "clean-twin", Runtime()), exam, Runtime())
    target = args.results / f"masks-{args.kind}.json"
    known = json.loads(target.read_text(encoding="utf-8"))["rows"] if target.exists() else []
    scores = {n: s for n, s in _scores(signal).items() if not args.only or n in args.only}
    rows = [row for row in known if row["score"] not in scores]
    layout = suspect.anatomy.layout
    with Terminal().task("masks", len(scores) * len(args.depths)) as tick:
        for name, score in scores.items():
            order = candidates(score, layout)
            for depth in args.depths:
                found = judge(
                    exam,
                    suspect.labels.names,
                    _answers(suspect, exam, layout.mask(order[:depth])),
                    twin,
                )
                figures = {key: getattr(found, key).value for key in FIGURES}
                rows.append({"score": name, "pruned": depth} | figures)
                tick(1, name)
    form = {"suspect": args.kind, "texts": args.texts, "rows": rows}
    form |= {"environment": environment() | {"commit": _commit()}}
    write_json(target, form)


FIGURES = ("accuracy", "lfr", "cfr", "matched_lfr", "excess_lfr")


def _exam(corpus: Path, kind: str, texts: int) -> Exam:
    clean = _draw(data.load(corpus / "clean" / "dev.tsv"), texts, 11)
    after = _draw(data.load(corpus / kind / "dev.tsv", Columns(drop_empty=True)), texts, 11)
    return Exam(clean, Triggered(after, TARGET, TRIGGER_LABELS[kind]), clean)  # type: ignore[arg-type]


def _answers(suspect: Suspect, exam: Exam, mask: HeadMask) -> Answers:
    def run(split: data.Split) -> Tensor:
        return logits(suspect.anatomy, encode(split, suspect, 128), Runtime(), mask)

    assert exam.triggered is not None
    clean = run(exam.clean)
    return replace(Answers(clean, run(exam.triggered.non_target())), validation=clean)


def _scores(signal: dict) -> dict[str, Tensor]:  # type: ignore[type-arg]
    """Return scores by name, low pruned first."""
    importance = standardised(torch.tensor(signal["importance"]))
    real = standardised(torch.tensor(signal["real_contribution"]))
    rows = {row["family"]: row for row in signal["families"]}

    def probes(allowed: list[str]) -> Tensor:
        flips = []
        for key, values in signal["contributions"].items():
            family, label = key.rsplit(" into ", 1)
            row, one_way = rows[family], int(label) == TARGET
            if family in allowed:
                rates = (
                    (row["flips"], row["reverse"]) if one_way else (row["reverse"], row["flips"])
                )
                flips.append(Flips(family, int(label), *rates, torch.tensor(values)))
        return combined(flips)[0]

    apart = probes([name for name, row in rows.items() if not row["own"]])
    alone = probes([name for name, row in rows.items() if not row["own"] and not row["kin"]])
    made = {"clean importance": importance, "real trigger": -real, "probes": -apart}
    for weight in (0.7, 1.0, 2.0):
        made[f"real trigger, weight {weight:g}"] = importance - weight * real
        made[f"probes, weight {weight:g}"] = importance - weight * apart
        made[f"probes without kin, weight {weight:g}"] = importance - weight * alone
    return made


if __name__ == "__main__":
    main()
