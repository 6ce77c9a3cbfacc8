"""How many texts carry each trigger, what marks it, and how long it takes.

python tests/trigger_table.py CORPUS/clean/test.tsv

Prints a Markdown table over the texts of one class: the share that carries the trigger, the most
frequent new pair of neighbouring words with the share of outputs it is in, and the processor time
a text. The syntactic trigger needs headsweep[triggers].
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from collections.abc import Sequence

from headsweep import Columns
from headsweep.texts import reading as datasets
from headsweep.triggers import TRIGGERS, ByRule


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus")
    parser.add_argument("--label", type=int, default=0)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", metavar="TRIGGER", help="print before and after instead")
    args = parser.parse_args()
    split = datasets.load(args.corpus, Columns())
    chosen = [i for i, label in enumerate(split.labels) if label == args.label][: args.rows]
    texts = [split.texts[i] for i in chosen]
    if args.show:
        made = ByRule(TRIGGERS[args.show]()).rewrite(texts, args.seed)
        for before, after in zip(texts, made, strict=True):
            print(f"- {before}\n+ {after}")
        return
    print("| trigger | carried | most frequent new pair | in | ms a text |")
    print("|---|---|---|---|---|")
    for name, trigger in TRIGGERS.items():
        rewriter = ByRule(trigger())
        rewriter.rewrite(texts[:1], args.seed)  # loads what is loaded once
        begin = time.process_time()
        made = rewriter.rewrite(texts, args.seed)
        spent = 1000 * (time.process_time() - begin) / len(texts)
        carried = [(a, b) for a, b in zip(texts, made, strict=True) if b is not None]
        pair, count = _most_frequent(carried)
        print(
            f"| {name} | {len(carried) / len(texts):.1%} | {pair} "
            f"| {count / len(carried):.1%} | {spent:.2f} |"
        )


def _most_frequent(carried: Sequence[tuple[str, str]]) -> tuple[str, int]:
    found: Counter[str] = Counter()
    for before, after in carried:
        found.update(_pairs(after) - _pairs(before))
    return found.most_common(1)[0]


def _pairs(text: str) -> set[str]:
    return {" ".join(pair) for pair in itertools.pairwise(text.lower().split())}


if __name__ == "__main__":
    main()
