"""Recipes: what they fill, what wins over them, and the line of every mistake."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from headsweep.document import place_of, read_document
from headsweep.errors import UserError
from headsweep.purification.method import (
    ALONE,
    HOT,
    ONE_PASS,
    PAPER,
    Method,
    usual,
)
from headsweep.purification.recipe import Asked, read_recipe
from headsweep.settings import pair
from test_cli import FAST, run  # noqa: F401 - a fixture

DEFAULTS = Asked("gradient", (), 0.02, None, 0, "classifier", "heads")


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return path

    return write


def test_a_recipe_fills_what_was_not_given(written):
    path = written('strategy = "layerwise"\nmin_accuracy = 0.8\nseed = 7\n[heal]\nepochs = 1\n')
    asked = DEFAULTS.over(read_recipe(path, "strategy"), set())
    assert (asked.method, asked.min_accuracy, asked.max_drop) == ("layerwise", 0.8, None)
    assert (asked.seed, asked.heal) == (7, ("epochs=1",))
    assert asked.start == "classifier"


def test_the_command_line_wins(written):
    path = written('strategy = "gradient"\nmin_accuracy = 0.8\n[fields]\nstep = 3\nexamples = 9\n')
    own = Asked("gradient", ("step=5",), 0.1, None, 0)
    asked = own.over(read_recipe(path, "strategy"), {"fields", "max_drop"})
    assert (asked.max_drop, asked.min_accuracy) == (0.1, None)
    assert set(asked.fields) == {"step=5", "examples=9"}
    other = Asked("variance", (), 0.02, None, 0).over(read_recipe(path, "strategy"), {"method"})
    assert (other.method, other.fields) == ("variance", ())


def test_a_recipe_of_one_line_leaves_the_method_to_the_command(written):
    """`prune_drop = 0.1` alone, as errors advise it, was refused for want of a strategy."""
    recipe = read_recipe(written("prune_drop = 0.1\n"), "strategy")
    own = replace(DEFAULTS, method="layerwise")
    assert own.over(recipe, {"method"}) == replace(own, prune_drop=0.1)
    recipe = read_recipe(written("max_drop = 0.1\n"), "defense")
    assert Asked("pure").over(recipe, {"method"}) == Asked("pure", max_drop=0.1)
    with pytest.raises(UserError, match="'defense' is missing"):
        read_recipe(written("[fields]\nstrength = 0.2\n"), "defense")


def test_what_is_given_takes_the_use_of_a_recipes_healing_away(written):
    """`--heal members=1` over a recipe was refused for the recipe's own `how`."""
    text = '[heal]\nmembers = 3\nhow = "greedy"\non = "probes"\nshare = 0.3\nepochs = 2\n'
    own = replace(DEFAULTS, heal=("members=1", "on=clean"))
    healing = own.over(read_recipe(written(text), "strategy"), {"heal"}).healing(HOT, prunes=True)
    assert healing == replace(HOT, members=1, epochs=2)


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ('strategy = "gradeint"\n', 1, "did you mean 'gradient'"),
        ('strategy = "gradient"\nmax_dorp = 0.1\n', 2, "did you mean 'max_drop'"),
        ('strategy = "gradient"\n\n[fields]\nsteps = 3\n', 4, "did you mean 'step'"),
        ('strategy = "gradient"\nfields = {step = 1, score = "x"}\n', 2, "score"),
        ('strategy = "gradient"\n[heal]\nepochs = -1\n', 3, "cannot train"),
        ('strategy = "gradient"\nseed = "x"\n', 2, "whole number"),
        ('strategy = "gradient"\nmax_drop = 0.1\nmin_accuracy = 0.8\n', 3, "one bound"),
        ('defense = "pure"\n', 1, "headsweep defend"),
        ("[fields]\nstep = 1\n", None, "'strategy' is missing"),
        ("strategy = \n", 1, "not TOML"),
    ],
)  # fmt: skip
def test_mistakes_have_their_line(written, text, line, told):
    with pytest.raises(UserError) as caught:
        read_recipe(written(text), "strategy")
    assert told in str(caught.value)
    assert line is None or f"line {line}" in caught.value.what


def test_places_in_arrays_of_tables():
    text = "[[method]]\na = 1\n[[method]]\na = 2\n[method.fields]\nb = 1\n[other]\na = 3\n"
    lines = text.split("\n")
    assert tomllib.loads(text)["method"][1]["fields"] == {"b": 1}
    assert place_of(lines, ("method", 0), "a") == 2
    assert place_of(lines, ("method", 1), "a") == 4
    assert place_of(lines, ("method", 1, "fields"), "b") == 6
    assert place_of(lines, ("method", 1)) == 3
    assert place_of(lines, ("other",), "a") == 8


def test_healing_on_probes_comes_from_a_recipe(written):
    path = written('strategy = "gradient"\n[heal]\non = "probes"\nattention = 0\n')
    asked = DEFAULTS.over(read_recipe(path, "strategy"), set())
    assert asked.heal == ("on=probes", "attention=0")
    assert asked.healing(HOT, prunes=True) == replace(HOT, on="probes", attention=0)
    own = replace(DEFAULTS, heal=("on=clean",))
    asked = own.over(read_recipe(path, "strategy"), {"heal"})
    assert asked.healing(HOT, prunes=True) == replace(HOT, attention=0)


def test_the_usual_healing_goes_by_the_task_and_what_is_given_wins(written):
    own = usual("generation")
    healing = own.healing(True)
    assert healing == ONE_PASS == own.healing(False)
    assert (healing.epochs, healing.lr, healing.attention) == (1, 5e-4, 0)
    assert (healing.members, healing.halvings, healing.beyond, healing.batch) == (3, 3, 1.5, 8)
    assert own.strategy.name == "none"
    for task in ("classification", "multi-label", "regression", "token-classification"):
        own = usual(task)
        assert (own.healing(True), own.healing(False)) == (HOT, ALONE)
        assert own.strategy.name == "gradient"
    assert usual(start="encoder").healing(True) == PAPER
    path = written('strategy = "gradient"\n[heal]\nlr = 1e-4\n')
    asked = DEFAULTS.over(read_recipe(path, "strategy"), set())
    assert asked.healing(healing, prunes=True) == replace(healing, lr=1e-4, halvings=0)
    own = replace(DEFAULTS, heal=("members=2", "attention=0.1"))
    found = own.over(read_recipe(path, "strategy"), {"heal"}).healing(healing, prunes=True)
    assert found == replace(healing, lr=1e-4, halvings=0, members=2, attention=0.1)


def test_a_defense_brings_its_own_healing(written):
    assert read_recipe(written('defense = "pure"\n[fields]\nstrength = 0.2\n'), "defense").fields
    with pytest.raises(UserError, match="line 2"):
        read_recipe(written('defense = "pure"\nheal = {epochs = 1}\n'), "defense")


def test_unreadable_files_are_said(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_document(tmp_path / "none.toml")


def test_purify_and_defend_take_a_recipe(run, trained_folder, csv_file, written, tmp_path):  # noqa: F811
    text = (
        'strategy = "gradient"\nmax_drop = 0.3\nseed = 5\n[fields]\nstep = 2\n[heal]\nepochs = 0\n'
    )
    out = tmp_path / "out"
    base = ["--data", csv_file, "--out", out, *FAST]
    recipe = written(text)
    assert run("purify", trained_folder, "--recipe", recipe, "--seed", 6, *base)[0] == 0
    made = json.loads((out / "headsweep.json").read_text())
    assert made["strategy"]["fields"]["step"] == 2
    assert made["heal"]["fields"]["epochs"] == 0
    assert (made["seed"], made["bound"]["max_drop"]) == (6, 0.3)
    code, _, err = run("defend", trained_folder, "--recipe", recipe, *base, "--overwrite")
    assert (code, "headsweep purify --recipe" in err) == (2, True)
    code, _, err = run("defend", trained_folder, *base, "--overwrite")
    assert (code, "which baseline?" in err) == (2, True)
    recipe = written('defense = "random"\n[fields]\ncount = 3\nepochs = 0\n')
    assert run("defend", trained_folder, "--recipe", recipe, *base, "--overwrite")[0] == 0
    assert len(json.loads((out / "headsweep.json").read_text())["pruned_units"]) == 3


def test_what_does_not_hold_of_a_recipes_healing_is_left_out(written):
    path = written('strategy = "gradient"\n[heal]\nepochs = 4\nlr = 1e-4\nhalvings = 3\n'
                   "attention = 0.15\n")  # fmt: skip
    recipe = read_recipe(path, "strategy")

    def left(given, **changes):
        asked = replace(DEFAULTS, **changes).over(recipe, given)
        return {pair(setting)[0] for setting in asked.heal}

    assert left(set()) == {"epochs", "lr", "halvings", "attention"}
    assert left({"heal"}, heal=("lr=3e-5",)) == {"epochs", "lr", "attention"}
    assert left({"start"}, start="encoder") == set()
    assert left({"start"}, start="classifier") == {"epochs", "lr", "halvings", "attention"}
    assert left({"method"}, method="layerwise") == {"epochs", "lr", "halvings", "attention"}
    assert left({"heal"}, heal=("epochs=0",)) == {"epochs"}


def test_a_recipe_may_be_of_healing_alone(run, trained_folder, csv_file, written, tmp_path):  # noqa: F811
    recipe = written('strategy = "none"\nmax_drop = 0.5\n[heal]\nepochs = 1\nlr = 1e-3\n')
    out = tmp_path / "out"
    fast = ("--compute", "max_length=24", "--compute", "precision=fp32", "--device", "cpu")
    assert run("purify", trained_folder, "--recipe", recipe, "--data", csv_file, "--out", out,
               *fast)[0] == 0  # fmt: skip
    made = json.loads((out / "headsweep.json").read_text())
    assert (made["strategy"]["name"], made["heal"]["fields"]["epochs"]) == ("none", 1)


def test_the_example_recipe_is_one():
    path = Path(__file__).parents[1] / "recipes" / "gradient.toml"
    asked = read_recipe(path, "strategy")
    assert asked.method == Method().pruning.name
    assert asked.healing(HOT, prunes=True) == HOT
    assert {"epochs", "halvings"} <= {pair(setting)[0] for setting in asked.heal}


@pytest.mark.parametrize("key", ["consistency", "distill", "freeze_embeddings"])
def test_a_deleted_key_says_that_it_is_gone(written, key):
    with pytest.raises(UserError, match=f"'{key}' is gone"):
        read_recipe(written(f'strategy = "gradient"\n[heal]\n{key} = 1\n'), "strategy")


def test_a_deleted_strategy_names_what_replaced_it(written):
    with pytest.raises(UserError, match="'cycles' is gone") as caught:
        read_recipe(written('strategy = "cycles"\n'), "strategy")
    assert "took its place" in caught.value.fix
