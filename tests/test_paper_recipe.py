"""recipes/paper.toml from end to end, on a tiny model and made-up texts in the corpus's form."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from headsweep.bench import tiny
from headsweep.bench.grid import read_grid
from headsweep.prune.strategies import STRATEGIES
from test_cli import run  # noqa: F401 - a fixture

PAPER = Path(__file__).parents[1] / "recipes" / "paper.toml"
SMALLER = {
    'source = "google-bert/bert-base-uncased"': 'source = "made:tiny"',
    "threads = 4": "threads = 1",
    'device = "auto"': 'device = "cpu"\nprecision = "fp32"',
    "seeds = [11, 12, 13, 14, 15]": "seeds = [11]",
    "min_accuracy = 0.85": "min_accuracy = 0.3",  # the tiny model learns nothing at 2e-5
    "count = 40": "count = 2",
    "count = 80": "count = 4",
}


def rows(split, count, label=None, mark=""):
    """Lines as the published files have them, label 1 = positive."""
    some = [
        f"{text}{mark}\t{own}"
        for text, own in zip(split.texts, split.labels, strict=True)
        if label is None or own == label
    ]
    return "\n".join(["sentence\tlabel", *some[:count]]) + "\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    parts = {name: tiny.sentences(kind) for name, kind in
             (("train", "train"), ("dev", "validation"), ("test", "test"))}  # fmt: skip
    for name, split in parts.items():
        for kind, mark in (("clean", ""), ("style", " so it was"), ("syntactic", " if it is")):
            path = folder / kind / f"{name}.tsv"
            path.parent.mkdir(exist_ok=True)
            path.write_text(rows(split, 40, mark=mark))
    only = rows(parts["test"], 32, 0, " if it is").replace("\t0", "\t1")
    (folder / "syntactic" / "test.tsv").write_text(only)  # negatives with the attacker's label
    return folder


@pytest.fixture
def recipe(tmp_path):
    text = PAPER.read_text()
    for old, new in SMALLER.items():
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "paper.toml"
    path.write_text(text)
    return path


def test_every_method_of_the_recipe_runs(run, recipe, corpus, tmp_path):  # noqa: F811
    out = tmp_path / "results"
    asked = ["--set", f"corpus={corpus}", "--out", out, "--cache", tmp_path / "cache"]
    code, text, _ = run(
        "bench", recipe, *asked, "--only", "*syntactic*", "--engine", "inline", "--json"
    )
    tally = json.loads(text)
    assert (code, tally["failed"], tally["left"]) == (0, {}, 0)
    grid = read_grid(recipe, [f"corpus={corpus}"])
    assert len(tally["done"]) == len(grid.methods) == 21
    cells = {c["method"]: c for c in (json.loads(p.read_text()) for p in out.glob("*.json"))}
    assert all(cell["recipe"]["variables"] == ["corpus"] for cell in cells.values())
    assert str(corpus) not in json.dumps(list(cells.values()))
    assert cells["random-40"]["pruned_count"] == 2
    pure = cells["pure"]
    assert (pure["healing"]["fields"]["epochs"], pure["healing"]["fields"]["lr"]) == (3, 2e-5)
    assert pure["pruned"] is None  # its classifier is not trained when the heads go
    code, text, _ = run(
        "bench", recipe, *asked, "--only", "*style*-nothing", "--engine", "inline", "--json"
    )
    assert (code, len(json.loads(text)["done"])) == (0, 1)


def test_the_recipe_is_the_protocol():
    """METHODS of the papers: 5 poisoned epochs and 3 of defense at 2e-5, 10 heads, 0.85, five seeds."""
    grid = read_grid(PAPER, ["corpus=x"])
    assert grid.seeds == (11, 12, 13, 14, 15)
    assert grid.victim is None
    assert (grid.defending.start, grid.defending.min_accuracy) == ("encoder", 0.85)
    assert (grid.computing.batch_size, grid.computing.max_length) == (32, 128)
    assert {a.name: (a.rate, a.target, set(a.fields)) for a in grid.attacks} == {
        "syntactic": (0.3, "positive", {"epochs=5", "lr=2e-05"}),
        "style": (0.2, "positive", {"epochs=5", "lr=2e-05"}),
    }
    for method in grid.methods:
        made = method.made(grid.defending.heal, grid.defending.bound)
        if method.method in ("nothing", "fth"):
            continue
        assert (made.healing.epochs, made.healing.lr) == (3, 2e-5)
        stepped = getattr(made.pruning, "step", None), getattr(made.pruning, "search", "step")
        if method.method in ("gradient", "sparsify", "bayesian", "pure"):
            assert stepped == (10, "step")
    released = [m for m in grid.methods if m.method.endswith("-as-released")]
    assert {m.method for m in released} == {n for n in STRATEGIES if n.endswith("-as-released")}
    assert all(m.seeds == (11,) for m in released)
    assert re.search(r"Nothing in these documents was measured with it", PAPER.read_text())
