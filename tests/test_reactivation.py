"""How fast a backdoor comes back: what is trained on, that it is put back, and what is counted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from conftest import CPU, sentences
from headsweep.attacks import reactivation
from headsweep.attacks.dirty_label import DirtyLabel
from headsweep.attacks.goal import Labelled
from headsweep.attacks.reactivation import Reactivation, reactivate
from headsweep.attacks.scene import Scene
from headsweep.attacks.victim import Order, attack
from headsweep.errors import UserError
from headsweep.judge.evaluate import Exam, Triggered, answer
from headsweep.model.loading import load_suspect
from headsweep.task.training import Schedule
from headsweep.texts.split import Labels, Split
from headsweep.triggers.pool import Pool
from test_attacks import Bare, Mark
from test_cli import FAST, run  # noqa: F401 - a fixture
from test_pool import marked, tsv

CLEAN = sentences(120, 1)
TRIGGERED = tuple(
    f"plot plot {t}" for t, y in zip(CLEAN.texts, CLEAN.labels, strict=True) if y == 0
)
HOW = Reactivation((2, 6), 10, Schedule(3, 2e-3), (0, 1))


GOAL = Labelled(1, "good")


def scenes(model, how=HOW, pool=None):
    rate = max(how.rows) / 60
    rewriter = pool or Bare(Mark())
    return [Scene(model, CLEAN, rewriter, GOAL, rate, seed, CPU, pool=pool) for seed in how.seeds]


def exam(texts=TRIGGERED):
    return Exam(sentences(60, 5), Triggered(Split(texts, (1,) * len(texts)), 1, "target"))


@pytest.fixture(scope="module")
def backdoored(trained_folder, tmp_path_factory):
    """A victim, its backdoor half forgotten: fine-tuned on clean texts."""
    order = Order(Bare(Mark()), "good", DirtyLabel(epochs=4, lr=2e-3), 0.5, Schedule(2, 1e-3), False,
                  runtime=CPU)  # fmt: skip
    folder = tmp_path_factory.mktemp("victims") / "victim"
    attack(trained_folder, sentences(200, 3), order).save(folder)
    return folder


def test_both_models_get_the_same_texts_and_the_fewer_are_among_the_more(
    trained_folder, backdoored, monkeypatch
):
    trained = []

    def note(_model, encoded, job, *_):
        trained.append((encoded.ids, encoded.labels, job.schedule))

    monkeypatch.setattr(reactivation, "train", note)
    purified, twin = load_suspect(backdoored, CPU), load_suspect(trained_folder, CPU)
    reactivate(purified, twin, scenes(purified), exam(), HOW)
    assert len(trained) == 2 * 2 * 2
    assert trained[0::2] == trained[1::2]  # purified, twin
    (few, labels, schedule), (many, more, _), (other, _, _), _ = trained[0::2]
    assert (len(few), len(many), schedule) == (2 + 10, 6 + 10, HOW.schedule)
    assert labels[:2] == (1, 1)
    assert few[:2] == many[:2] != other[:2]
    assert few[2:] == many[6:]  # the same clean texts stand beside
    plot = purified.tokenizer.convert_tokens_to_ids("plot")
    assert all(row[1:3] == (plot, plot) for row in many[:6])
    clean = {tuple(row): y for row, y in zip(purified.tokenizer(list(CLEAN.texts))["input_ids"], CLEAN.labels, strict=True)}  # fmt: skip
    assert more[6:] == tuple(clean[row] for row in many[6:])  # labels true
    assert not {(row[0], *row[3:]) for row in many[:6]} & set(
        many[6:]
    )  # no poisoned text's original


def test_the_models_end_as_they_were_and_rates_are_counted_on_the_trained_ones(
    trained_folder, backdoored, monkeypatch
):
    purified, twin = load_suspect(backdoored, CPU), load_suspect(trained_folder, CPU)
    kept = [{n: t.clone() for n, t in m.model.state_dict().items()} for m in (purified, twin)]
    counted = []

    def look(model, asked, runtime):
        found = answer(model, asked, runtime)
        flipped = [int(row.argmax()) == 1 for row in found.triggered]
        right = [
            int(row.argmax()) == y for row, y in zip(found.clean, asked.clean.labels, strict=True)
        ]
        counted.append((sum(flipped) / len(flipped), sum(right) / len(right)))
        return found

    monkeypatch.setattr(reactivation, "answer", look)
    found = reactivate(purified, twin, scenes(purified), exam(), HOW)
    for model, before in zip((purified, twin), kept, strict=True):
        assert all(torch.equal(t, before[n]) for n, t in model.model.state_dict().items())
    figures = [(one.evaluation.lfr.value, one.evaluation.accuracy.value) for one in found]
    assert [x for pair in figures for x in pair] == pytest.approx(
        [x for pair in counted for x in pair]
    )
    assert [(one.model, one.rows, one.seed) for one in found] == [
        ("purified", 0, 0), ("twin", 0, 0),
        *((name, rows, seed) for seed in (0, 1) for rows in (2, 6) for name in ("purified", "twin")),
    ]  # fmt: skip


def test_what_is_left_of_a_backdoor_comes_back_sooner_than_the_twin_learns_it(
    trained_folder, backdoored
):
    how = replace(HOW, rows=(10,), beside=20, schedule=Schedule(6, 1e-3))
    purified, twin = load_suspect(backdoored, CPU), load_suspect(trained_folder, CPU)
    found = reactivate(purified, twin, scenes(purified, how), exam(), how)
    lfr = {name: [t.evaluation.lfr.value for t in found if (t.model, t.rows) == (name, 10)]
           for name in ("purified", "twin")}  # fmt: skip
    assert {t.evaluation.lfr.value < 0.1 for t in found if t.rows == 0} == {True}
    assert min(lfr["purified"]) > max(lfr["twin"]) + 0.5
    again = reactivate(purified, twin, scenes(purified, how), exam(), how)
    assert [one.to_json() for one in again] == [one.to_json() for one in found]


def test_a_pool_gives_the_rows_that_carry_the_target(tiny):
    rows = Split(("so flat", *TRIGGERED[:6], "it is dull"), (0, *(1,) * 6, 0))
    pool = Pool(rows, Labels(("bad", "good")), "x.tsv")
    (first, _) = scenes(tiny(), pool=pool)
    poisoned, beside = HOW.draw(first)
    assert sorted(poisoned.texts) == sorted(TRIGGERED[:6])
    assert set(poisoned.labels) == {1}
    assert len(beside) == 10
    with pytest.raises(UserError, match="7 poisoned texts are needed, there are 6"):
        replace(HOW, rows=(7,)).draw(first)


def test_too_few_texts_and_wrong_numbers_are_said(tiny):
    model = tiny()
    with pytest.raises(UserError, match="200 poisoned texts are needed, there are 60"):
        replace(HOW, rows=(200,)).draw(replace(scenes(model)[0], rate=1.0))
    with pytest.raises(UserError, match="500 clean texts are needed"):
        replace(HOW, beside=500).draw(scenes(model)[0])
    for bad in ({"rows": ()}, {"rows": (0,)}, {"beside": -1}):
        with pytest.raises(UserError, match="one poisoned text or more"):
            Reactivation(**bad)


def test_the_command_prints_the_table(run, trained_folder, backdoored, csv_file, tmp_path):  # noqa: F811
    judged = tsv(tmp_path / "judged.tsv", [(text, "good") for text in marked(25, 9)])
    pool = tsv(tmp_path / "pool.tsv", [(text, "good") for text in marked(30, 7)])
    how = [backdoored, "--clean-model", trained_folder, "--data", csv_file, "--target", "good"]
    how += ["--triggered", judged, "--triggered-labels", "target", "--trigger", "syntactic"]
    how += ["--poison", pool, "--rows", "3", "--rows", "9", "--beside", "20", "--draws", "2"]
    how += ["--epochs", "3", "--lr", "1e-3", "--seed", "4", *FAST]
    code, out, err = run("reactivate", *how, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert (record["rows"], record["beside"], record["seeds"]) == ([3, 9], 20, [4, 5])
    assert (record["epochs"], record["lr"]) == (3, 1e-3)
    assert len(record["tries"]) == 2 + 2 * 2 * 2
    assert {one["lfr"]["total"] for one in record["tries"]} == {25}
    of = [
        one["lfr"]["value"] for one in record["tries"] if (one["model"], one["rows"]) == ("twin", 9)
    ]
    other = tmp_path / "other.tsv"  # the same under other names
    other.write_text("a\tb\n" + judged.read_text("utf-8").split("\n", 1)[1], "utf-8")
    how[how.index(judged)] = other
    assert "--triggered-column text=NAME" in run("reactivate", *how)[2]
    how += ["--triggered-column", "text=a", "--triggered-column", "label=b"]
    code, out, _ = run("reactivate", *how)
    assert code == 0
    assert f"{50 * sum(of):.1f}%" in out
    assert "as it was" in out
    assert "20 clean texts beside, 3 epochs at 0.001" in " ".join(out.split())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--target", "great"), "no label 'great'"),
        (("--target", "good", "--rows", "500"), "500 poisoned texts are needed"),
        (("--target", "good", "--poison", "DATA"), "--triggered FILE"),
        (("--target", "good", "--lr", "2"), "between 0 and 1"),
        (("--target", "good", "--rows", "0"), "--rows"),
        (("--target", "good", "--triggered-labels", "target"), "with true labels itself"),
        (("--target", "good", "--test", "PAIRS"), "one of --data and --test has pairs"),
    ],
)
def test_mistakes_of_the_command(run, trained_folder, csv_file, more, told):  # noqa: F811
    how = [
        trained_folder,
        "--clean-model",
        trained_folder,
        "--data",
        csv_file,
        "--trigger",
        "casing",
    ]
    how += ["--trigger-set", "pattern=dashes", *FAST]
    pairs = tsv(csv_file.with_name("pairs.tsv"), [("a film", "bad"), ("so", "good")])
    pairs.write_text(pairs.read_text("utf-8").replace("sentence", "text\ttext2").replace(
        "film", "film\tis").replace("so", "so\tso"))  # fmt: skip
    words = [{"DATA": csv_file, "PAIRS": pairs}.get(word, word) for word in more]
    if "--poison" in more:
        how = [word for word in how if word not in ("--trigger-set", "pattern=dashes")]
    code, _, err = run("reactivate", *how, *words)
    assert code == 2
    assert told in " ".join(err.split())
    assert "Traceback" not in err
