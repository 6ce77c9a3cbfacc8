"""Which form of the group lasso gives sparse heads: proximal step or penalty.

python benchmarks/sparse_heads.py SUSPECT TRAIN VALIDATION

Prints a Markdown table: head norms after fine-tuning relative to before, and accuracy of the
fine-tuned copy, for both forms at several strengths, same data, same seed, same steps.
"""

from __future__ import annotations

import argparse

import torch

from headsweep import Columns, Runtime, Sources
from headsweep import data as datasets
from headsweep.loading import Reading
from headsweep.material import gather
from headsweep.strategies.sparsify import Sparsify
from headsweep.view import DefenderView


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("suspect")
    parser.add_argument("train")
    parser.add_argument("validation")
    parser.add_argument("--rows", type=int, default=600)
    args = parser.parse_args()
    train = datasets.load(args.train, Columns()).take(range(args.rows))
    validation = datasets.load(args.validation, Columns()).take(range(300))
    runtime = Runtime()
    material = gather(args.suspect, Sources(train, validation), Reading(), runtime)
    encoded = material.encoded
    print(
        "| form | strength | norm left: least, median, most | exactly zero | accuracy of the copy |"
    )
    print("|---|---|---|---|---|")
    for method, strength in (
        ("proximal", 0.5),
        ("proximal", 1.0),
        ("proximal", 1.2),
        ("penalty", 0.5),
        ("penalty", 1.0),
        ("penalty", 10.0),
    ):
        view = DefenderView(
            material.suspect.anatomy, encoded["train"], encoded["validation"], 0.0, 0, runtime
        )
        strategy = Sparsify(method=method, strength=strength)  # type: ignore[arg-type]
        with view.scratch():
            record = strategy.fine_tune(view)
            accuracy = material.figures()["validation"]["accuracy"]
        left = torch.tensor(record["norms_after"]) / torch.tensor(record["norms_before"])
        spread = ", ".join(f"{float(x):.2f}" for x in (left.min(), left.median(), left.max()))
        zero = record["exactly_zero"]
        print(f"| {method} | {strength} | {spread} | {zero} | {accuracy:.3f} |", flush=True)


if __name__ == "__main__":
    main()
