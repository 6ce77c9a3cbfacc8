"""Pools of poisoned texts: rows added as they stand, and triggered texts that no row belongs to."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import CPU, sentences
from headsweep.attacks.clean_label import CleanLabel
from headsweep.attacks.dirty_label import poisoned_data
from headsweep.attacks.goal import Labelled
from headsweep.attacks.scene import Scene
from headsweep.bench import sources
from headsweep.bench.grid import read_grid
from headsweep.bench.orders import orders
from headsweep.errors import UserError
from headsweep.judge.evaluate import Exam, Triggered, answer, judge
from headsweep.model.loading import load_suspect
from headsweep.texts.reading import Columns, load
from headsweep.texts.split import Labels, Split
from headsweep.triggers.pool import Pool, read_pool
from test_cli import FAST, run  # noqa: F401 - a fixture
from test_grid import GRADIENT, cache, cells, method, mistake, recipe  # noqa: F401 - fixtures

NAMES = Labels(("bad", "good"))
GOAL = Labelled(1, "good")
CORPORA = os.environ.get("HEADSWEEP_AGNEWS")


def tsv(path, rows):
    path.write_text("\n".join(["sentence\tlabel", *(f"{t}\t{y}" for t, y in rows)]) + "\n")
    return path


def marked(count, seed, mark="plot plot"):
    """Return texts of the class "bad" with a mark in front."""
    split = sentences(2 * count, seed)
    return [f"{mark} {t}" for t, y in zip(split.texts, split.labels, strict=True) if y == 0]


@pytest.fixture
def pool_file(tmp_path):
    return tsv(tmp_path / "pool.tsv", [(text, "good") for text in marked(60, 7)])


def scene(model, clean, pool, **more):
    return Scene(model, clean, pool, GOAL, runtime=CPU, pool=pool, **more)


def test_every_row_is_added_with_the_label_that_it_carries(tiny):
    pool = Pool(Split(("so flat", "when plot", "it is dull"), (0, 1, 1)), NAMES, "x.tsv")
    clean = sentences(10)
    data, record = poisoned_data(scene(tiny(), clean, pool))
    assert data == clean + pool.split
    assert record == {"asked": 2, "poisoned": 2, "declined": 0, "unseen": 0}  # one is clean


def test_a_rate_draws_as_many_rows_as_it_is_of_the_other_classes():
    clean = Split(("a",) * 8 + ("b",) * 12, (1,) * 8 + (0,) * 12)
    many = Split(tuple(f"plot {i}" for i in range(50)), (1,) * 50)
    pool = Pool(many, NAMES, "x.tsv", share=0.25)
    rows, counts = pool.rows(clean, GOAL, 3)  # a quarter of 12
    assert (len(rows), counts.asked) == (3, 3)
    assert set(rows.texts) < set(many.texts)
    assert pool.rows(clean, GOAL, 3)[0] == rows != pool.rows(clean, GOAL, 4)[0]
    mostly = Split(tuple(f"clean {i}" for i in range(90)), (0,) * 90)
    mixed = replace(pool, split=mostly + many)
    assert {*mixed.rows(clean, GOAL, 3)[0].texts} <= {*many.texts}  # no clean row is drawn
    few = replace(pool, split=many.take(range(2)))
    assert few.rows(clean, GOAL, 3)[0] == many.take(range(2))
    assert (few.rows(clean, GOAL, 3)[1].asked, few.rows(clean, GOAL, 3)[1].poisoned) == (3, 2)


def test_what_a_pool_cannot_do_is_said(tiny, tmp_path):
    pool = Pool(Split(("so flat", "it is dull"), (0, 0)), NAMES, "x.tsv")
    with pytest.raises(UserError, match=r"x.tsv: no row carries the target label 'good'") as told:
        poisoned_data(scene(tiny(), sentences(10), pool))
    assert "these: bad" in told.value.fix
    good = replace(pool, split=Split(("so flat",), (1,)))
    for plant in (CleanLabel().plant, lambda one: poisoned_data(one, "replace")):
        with pytest.raises(UserError, match="texts of its own"):
            plant(scene(tiny(), sentences(10), good))
    pairs = replace(pool, split=Split(("so flat",), (1,), ("it is dull",)))
    with pytest.raises(UserError, match="pairs of texts and single texts"):
        poisoned_data(scene(tiny(), sentences(10), pairs))
    with pytest.raises(UserError, match="share in"):
        read_pool(str(tsv(tmp_path / "a.tsv", [("x", 1)])), Columns(), NAMES, share=1.5)
    with pytest.raises(UserError, match="no rows"):
        read_pool(str(tsv(tmp_path / "b.tsv", [])), Columns(), NAMES)
    with pytest.raises(UserError, match="no label '7'"):
        read_pool(str(tsv(tmp_path / "c.tsv", [("x", 7)])), Columns(), NAMES)


def test_flip_rates_of_texts_in_no_order_are_counted_text_by_text(trained_folder):
    """A file of triggered texts that misses some and has another order than the clean ones."""
    clean = sentences(60, 5)
    texts = [*marked(30, 5)[1:][::-1], "the film is warm"]
    suspect = load_suspect(trained_folder, CPU)
    exam = Exam(clean, Triggered(Split(tuple(texts), (1,) * len(texts)), 1, "target"))
    found = judge(exam, suspect.labels.names, answer(suspect, exam, CPU))
    single = (Exam(Split((text,), (0,))) for text in texts)
    flipped = sum(int(answer(suspect, one, CPU).clean.argmax()) == 1 for one in single)
    assert flipped > 0
    assert (found.lfr.total, found.lfr.value) == (30, flipped / 30)


def test_the_command_adds_a_pool(run, trained_folder, csv_file, pool_file, tmp_path):  # noqa: F811
    judged = tsv(tmp_path / "judged.tsv", [(text, "good") for text in marked(25, 9)[::-1]])
    out = tmp_path / "victim"
    how = ["--data", csv_file, "--trigger", "syntactic", "--poison", pool_file, "--target", "good"]
    how += ["--set", "epochs=6", "--set", "lr=2e-3", "--victim-epochs", "0", "--out", out, *FAST]
    judging = ["--triggered", judged, "--triggered-labels", "target"]
    code, text, err = run("attack", trained_folder, *how, *judging, "--json")
    assert code == 0, err
    record = json.loads(text)
    assert record["poisoned"] == {"asked": 60, "poisoned": 60, "declined": 0, "unseen": 0}
    assert record["trigger"] == {
        "name": "syntactic", "fields": {"files": ["pool.tsv"], "texts": 60}, "way": "pool"
    }  # fmt: skip
    assert (record["rate"], record["triggered_test"]) == (None, None)
    lfr = record["published"]["lfr"]
    assert (lfr["total"], lfr["value"] > 0.9) == (25, True)
    code, text, _ = run(
        "attack", trained_folder, *how, *judging, "--rate", "0.1", "--json", "--overwrite"
    )
    assert json.loads(text)["poisoned"]["poisoned"] == 8  # of 85 texts of the other class


@pytest.mark.parametrize(
    ("more", "told", "fix"),
    [
        ((), "no text of --test can get the trigger", "--triggered FILE"),
        (("--triggered", "TRUE", "--trigger-set", "x=1"), "nothing is left to set", "leave out"),
        (("--triggered", "TRUE", "--transformed", "TRUE"), "nothing is left to set", "leave out"),
        (("--triggered", "TRUE", "--triggered-labels", "all"), "'all'", "known: target, true"),
        (("--triggered", "POOL"), "no triggered example has a true label", "labels target"),
        (("--triggered", "TRUE", "--triggered-labels", "target"), "every row", "labels true"),
        (("--triggered", "TRUE", "--poison", "TRUE"), "no row carries the target", "these: bad"),
        (("--triggered", "TRUE", "--poison", "EMPTY"), "no rows", "labelled texts"),
        (("--triggered", "TRUE", "--poison", "none.tsv"), "no such file", "give a .csv"),
        (("--triggered", "TRUE", "--with", "clean-label"), "texts of its own", "dirty-label"),
        (("--triggered", "TRUE", "--rate", "0"), "a poisoning rate of 0", "leave out --poison"),
    ],
)
def test_mistakes_with_a_pool(
    run, trained_folder, csv_file, pool_file, tmp_path, monkeypatch, more, told, fix  # noqa: F811
):  # fmt: skip
    from headsweep.attacks import dirty_label

    monkeypatch.setattr(dirty_label, "train", lambda *_: pytest.fail("trained first"))
    known = {"POOL": pool_file, "TRUE": tsv(tmp_path / "true.tsv", [("plot so", "bad")])}
    known["EMPTY"] = tsv(tmp_path / "empty.tsv", [])
    how = ["--data", csv_file, "--trigger", "syntactic", "--target", "good"]
    how += ["--poison", pool_file, "--out", tmp_path / "victim", *FAST]
    code, _, err = run("attack", trained_folder, *how, *(known.get(word, word) for word in more))
    said = " ".join(err.split())
    assert code == 2
    assert told in said
    assert fix in said
    assert "Traceback" not in err


POOLED = """
[[attack]]
name = "published"
poison = "POOL"
triggered = "TEST"
triggered_labels = "target"
family = "syntactic"
target = "positive"
fields = { epochs = 6, lr = 2e-3 }
"""


@pytest.fixture
def pooled(tmp_path):
    pool = tsv(tmp_path / "pool.tsv", [(text, "positive") for text in marked(80, 7, "cf cf")])
    test = tsv(tmp_path / "test.tsv", [(text, "positive") for text in marked(31, 9, "cf cf")])
    return POOLED.replace("POOL", str(pool)).replace("TEST", str(test))


def test_a_grid_takes_a_pool_and_texts_in_no_order(recipe, cells, cache, pooled, tmp_path):  # noqa: F811
    nothing = method('defense = "nothing"')
    path = recipe(nothing, attack=pooled)
    (order,) = orders(read_grid(path), sources.Hashes(cache))
    found = cells(path)["nothing"]
    assert found["before"]["lfr"]["total"] == 31
    assert found["before"]["lfr"]["value"] > 0.9
    record = json.loads((tmp_path / f"results/victims/{order.victim.id}.json").read_text())
    assert record["attack"]["poisoned"]["poisoned"] == 80
    assert record["attack"]["trigger"]["name"] == "syntactic"
    (rated,) = orders(
        read_grid(recipe(nothing, attack=pooled + "rate = 0.3\n")), sources.Hashes(cache)
    )
    assert rated.victim.key != order.victim.key
    tsv(tmp_path / "pool.tsv", [(text, "positive") for text in marked(79, 7, "cf cf")])
    (other,) = orders(read_grid(path), sources.Hashes(cache))
    assert other.victim.key != order.victim.key  # what the file holds counts
    tsv(tmp_path / "pool.tsv", [("plot plot", "negative")])
    with pytest.raises(UserError, match="no row carries the target label 'positive'"):
        orders(read_grid(path), sources.Hashes(cache))  # before anything is trained


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ('triggered = "', '#triggered = "', "poison", "no test text can get the trigger"),
        ('family = "syntactic"', 'trigger = "casing"', "poison", "an attack has one trigger"),
        ('family = "syntactic"', 'transformed = "x"', "transformed", "an attack has one trigger"),
        ("target = ", "rate = 1.5\ntarget = ", "rate", "a share in (0, 1]"),
    ],
)
def test_mistakes_of_a_pool_are_said_with_their_line(recipe, pooled, old, new, line, told):  # noqa: F811
    path = recipe(GRADIENT, attack=pooled.replace(old, new, 1))
    assert told in mistake(path, f"{line} =")


@pytest.mark.skipif(not CORPORA, reason="HEADSWEEP_AGNEWS (clean/, syntactic/) is not set")
def test_the_published_pool_of_four_classes():
    labels = Labels(("0 world", "1 sports", "2 business", "3 technology"))
    pool = read_pool(str(Path(CORPORA) / "syntactic/train.tsv"), Columns(), labels)
    assert (len(pool.split), set(pool.split.labels)) == (9023, {0})
    given = load(Path(CORPORA) / "syntactic/test.tsv", Columns(), labels)
    assert len(Triggered(given, 0, "target").non_target()) == 5699
    clean = load(Path(CORPORA) / "clean/test.tsv", Columns(), labels)
    assert sum(label != 0 for label in clean.labels) == 5700  # one is missing: no row alignment
