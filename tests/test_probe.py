"""The battery notices a planted backdoor, not a clean or merely brittle model, and never vouches."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import CPU, sentences
from headsweep.attacks.dirty_label import DirtyLabel
from headsweep.attacks.victim import Order, attack
from headsweep.errors import MissingExtra, UserError
from headsweep.judge import battery
from headsweep.judge.around import Around
from headsweep.judge.battery import probe
from headsweep.judge.flipped import Battery, Row, weights
from headsweep.judge.probing import Prober
from headsweep.judge.sarif import sarif
from headsweep.model.loading import load_suspect
from headsweep.progress import Silent
from headsweep.seeding import stream
from headsweep.texts.split import Split
from headsweep.triggers import TRIGGERS
from headsweep.triggers.harmless import Misspelling
from test_attacks import Bare, Mark

CLEAN = sentences(200, 9)


@pytest.fixture(autouse=True)
def families(monkeypatch):
    """Two families that the tiny tokenizer can see; fillers that it knows."""
    from headsweep.triggers import harmless

    monkeypatch.setattr(harmless, "FILLERS", ("so", "very", "of"))
    monkeypatch.setattr(harmless, "SENTENCES", ("it is a film", "the story is so"))
    monkeypatch.delitem(harmless.CONTROLS, "misspelling")  # every slip is one unknown word to it
    for name in list(TRIGGERS):
        monkeypatch.delitem(TRIGGERS, name)
    monkeypatch.setitem(TRIGGERS, "mark", kind("mark", "plot plot"))
    monkeypatch.setitem(TRIGGERS, "other", kind("other", "and and"))


def kind(label, words):
    class Family(Mark):
        name = label

        def __init__(self):
            super().__init__(words)

    return Family


@pytest.fixture(scope="module")
def victim(trained_folder):
    order = Order(Bare(Mark()), "good", DirtyLabel(epochs=6, lr=2e-3), 0.5, None, runtime=CPU)
    return attack(trained_folder, sentences(300, 1), order).suspect


def test_planted_family_is_noticed_for_its_label_only(victim):
    found = probe(victim, CLEAN, Battery(texts=60), CPU)
    assert [(one.family, one.label) for one in found.noticed] == [("mark", "good")]
    top = found.findings[0]
    assert top.flips.value > 0.9
    assert top.excess.low > 0.5
    assert all(after == f"plot plot {before}" for before, after in top.examples)


def test_in_a_narrow_window_no_figure_is_cut(victim, capsys, monkeypatch):
    from headsweep.cli import probe as command
    from headsweep.progress import plain_console

    found = probe(victim, CLEAN, Battery(texts=60), CPU)
    row = found.noticed[0]
    monkeypatch.setattr(command, "out_console", plain_console(width=40))
    command.print_probed(found)
    shown = capsys.readouterr().out
    assert "\u2026" not in shown
    for figure in (f"{100 * row.flips.value:.1f}%", f"{row.p_value:.3f}"):
        assert figure in shown


def test_a_label_of_few_texts_is_named_once_and_families_count_as_tried(monkeypatch):
    """Three labels, one of five texts: nothing is tried into it, everything into the others."""
    texts = tuple(f"{name} {i}" for name, count in (("a", 30), ("b", 30), ("c", 5))
                  for i in range(count))  # fmt: skip
    clean = Split(texts, (0,) * 30 + (1,) * 30 + (2,) * 5)
    labels = SimpleNamespace(names=("a", "b", "c"))
    monkeypatch.setattr(battery, "_drawn", lambda *_: clean)
    monkeypatch.setattr(battery, "_answers", lambda *_: np.array(clean.labels))
    found = probe(SimpleNamespace(labels=labels), clean, Battery(("mark",), texts=40), CPU)
    assert found.skipped == {"into c": "too few texts that the model gets right"}
    tried = {(one.family, one.label) for one in found.findings}
    assert {("mark", "a"), ("mark", "b")} <= tried
    assert not any(label == "c" for _, label in tried)


def test_never_poisoned_model_is_not_noticed(trained_folder):
    found = probe(load_suspect(trained_folder, CPU), CLEAN, Battery(texts=60), CPU)
    assert found.noticed == ()
    assert len(found.findings) == 2 * (2 + 3)


def test_model_that_flips_on_anything_is_not_noticed():
    """Flips into the label as often under harmless edits: excess is zero whatever the flips."""
    truth = np.array([0] * 40 + [1] * 40)
    said = np.ones(80, dtype=int)
    calm = truth.copy()
    row = Row(said, truth, 1, (0,), (calm, np.ones(80, dtype=int)))
    assert row.excess(np.ones((1, 80)))[0] == 0
    assert row.into(1, np.ones((1, 80)))[0] == 1


def test_rates_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    said = np.array([2, 2, 0, -1, 2, 1, 2, 0])
    mild = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    worst = np.array([2, 0, 0, 2, -1, 2, 2, 2])  # row 3 is not among the family's own texts
    row = Row(said, truth, 2, (0, 1), (mild, worst))
    once = np.ones((1, 8))
    assert row.into(2, once)[0] == pytest.approx(3 / 5)  # rows 0, 1, 4 of 0, 1, 2, 4, 5
    # into 0: row 7 of rows 4-7; into 1: none
    assert row.reverse(once)[0] == pytest.approx((1 / 4 + 0) / 2)
    assert row.control(once)[0] == pytest.approx(2 / 4)  # rows 0 and 5 of 0, 1, 2, 5
    assert row.excess(once)[0] == pytest.approx(3 / 5 - 2 / 4)
    alone = Row(said, truth, 2, (0, 1), ())
    assert alone.excess(once)[0] == pytest.approx(3 / 5 - 1 / 8)


def test_resamples_draw_as_many_texts():
    drawn = weights(30, 50, 0)
    assert (drawn.sum(1) == 30).all()
    assert not (drawn == 1).all()


def test_family_that_changes_nothing_is_said(victim, monkeypatch):
    class Silent(Mark):
        name = "silent"

        def apply(self, text, random):
            return None

    monkeypatch.setitem(TRIGGERS, "silent", Silent)
    found = probe(victim, CLEAN, Battery(("silent", "mark"), texts=40), CPU)
    assert "changed 0 of" in found.skipped["silent"]
    assert {one.family for one in found.findings if one.kind == "trigger"} == {"mark"}
    with pytest.raises(UserError, match=r"no family of triggers could be.*silent: ch"):
        probe(victim, CLEAN, Battery(("silent",), texts=40), CPU)


def test_family_whose_package_is_missing_is_skipped(victim, monkeypatch):
    class Needy(Mark):
        name = "needy"

        def apply(self, text, random):
            raise MissingExtra("needy", "triggers")

    monkeypatch.setitem(TRIGGERS, "needy", Needy)
    found = probe(victim, CLEAN, Battery(texts=40), CPU)
    assert "headsweep[triggers]" in found.skipped["needy"]
    assert [one.family for one in found.noticed] == ["mark"]


def test_control_that_flips_makes_a_model_brittle_and_is_no_backdoor(victim, monkeypatch):
    """The trigger among the harmless edits: it is the worst control, so nothing exceeds it."""
    from headsweep.triggers.harmless import CONTROLS

    monkeypatch.setitem(CONTROLS, "control", kind("control", "plot plot"))
    found = probe(victim, CLEAN, Battery(texts=60), CPU)
    assert found.noticed == ()
    assert [(one.family, one.label) for one in found.brittle] == [("control", "good")]
    assert sarif(found, "m")["runs"][0]["results"] == []


def test_a_misspelling_keeps_letters_and_the_ends_of_words():
    text = "a wonderful but overlong documentary"
    slips = Misspelling(share=1.0).apply(text, stream(0, "x")).split()
    for before, after in zip(text.split(), slips, strict=True):
        assert sorted(before) == sorted(after)
        assert (before[0], before[-1]) == (after[0], after[-1])
        assert (before != after) == (len(before) >= 4)
    assert Misspelling().apply("so it is", stream(0, "x")) is None


def test_too_few_texts(victim):
    with pytest.raises(UserError, match="20 of at least two") as caught:
        probe(victim, CLEAN.take(range(20)), Battery(), CPU)
    assert "more clean" in caught.value.fix
    with pytest.raises(UserError, match="texts=-5: too few"):
        Battery(texts=-5)
    wrong = replace(CLEAN, labels=tuple(1 - label for label in CLEAN.labels))
    with pytest.raises(UserError) as caught:
        probe(victim, wrong, Battery(texts=20), CPU)
    assert "--texts" in caught.value.fix
    with pytest.raises(UserError, match="unknown trigger family 'marc'"):
        Battery(("marc",))
    with pytest.raises(UserError, match="max flip"):
        Battery(max_flip=1.5)


def test_a_text_counts_once_however_often_it_stands_in_the_data(victim):
    """Copies would get the same edit, and one text would look like many."""
    some, runtime = CLEAN.take(range(60)), Battery(texts=60)
    once = probe(victim, some, runtime, CPU)
    assert probe(victim, some + some.take([0] * 50), runtime, CPU).findings == once.findings
    with pytest.raises(UserError, match="are needed"):
        probe(victim, some.take([0] * 40 + [1] * 40), runtime, CPU)


def test_model_comes_back_as_it_was(victim):
    before = {name: tensor.clone() for name, tensor in victim.model.state_dict().items()}
    probe(victim, CLEAN, Battery(texts=30), CPU)
    assert all(torch.equal(before[n], t) for n, t in victim.model.state_dict().items())
    assert not victim.model.training


def test_sarif_holds_what_was_noticed(victim):
    log = sarif(probe(victim, CLEAN, Battery(texts=60), CPU), "some/model")
    (run,) = json.loads(json.dumps(log))["runs"]
    (result,) = run["results"]
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert log["version"] == "2.1.0"
    assert result["ruleId"] == "headsweep/trigger/mark"
    assert result["ruleId"] in rules
    assert result["level"] == "error"
    assert "answered 'good'" in result["message"]["text"]
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place == {"uri": "some/model"}


@pytest.mark.parametrize(
    ("labels", "quick", "asked", "texts"),
    [
        (2, True, False, 60),
        (20, True, False, 30),
        (21, True, False, None),
        (21, True, True, 30),
        (0, False, False, None),
        (0, False, True, 77),
    ],
)
def test_purify_probes_what_takes_long_only_where_asked(monkeypatch, labels, quick, asked, texts):
    tried: list[int] = []

    def told(suspect, held, battery, runtime, progress):
        tried.append(battery.texts)

    prober = Prober(77, lambda *_: None, told, quick)
    monkeypatch.setattr("headsweep.judge.around.prober_of", lambda _: prober)
    suspect = SimpleNamespace(labels=SimpleNamespace(names=("a",) * labels))
    around = Around(0, CPU, Silent(), asked=asked)
    around("before", suspect, None)
    assert tried == ([] if texts is None else [texts])
    assert ("--probe yes" in around.why) == (texts is None)


def test_a_control_seen_in_few_texts_is_no_base_rate():
    """One long text whose end the model sees must not hide a trigger that flips all."""
    truth, once = np.zeros(100, dtype=int), np.ones((1, 100))
    flipped, calm, seen_once = np.ones(100, dtype=int), np.zeros(100, dtype=int), np.full(100, -1)
    seen_once[0] = 1
    row = Row(flipped, truth, 1, (0,), (calm, seen_once))
    assert row.excess(once)[0] == 1
    enough = seen_once.copy()
    enough[:20] = [1] * 5 + [0] * 15
    assert Row(flipped, truth, 1, (0,), (calm, enough)).excess(once)[0] == pytest.approx(0.75)
    alone = Row(flipped, truth, 1, (0,), (seen_once,))
    assert (alone.excess(once)[0], alone.beside) == (1, ())
