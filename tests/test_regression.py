"""A model that gives a number goes through the whole of ``purify``, and is judged by hand beside it."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import BAD, CPU, FILLER, GOOD, tiny_model
from every_kind import COMPUTE, command_line, pruned_by, purified_by, written
from headsweep import (
    Bound,
    FineTune,
    Gradient,
    Method,
    Plan,
    Sources,
    Split,
    UserError,
    attack,
    evaluate,
    inspect,
    purify,
)
from headsweep.export.verify import verify
from headsweep.heal.entropy import EntropyFirst
from headsweep.measure.accuracy import Accuracy
from headsweep.model.loading import Reading, prepare
from headsweep.purification.bound import Allowance
from headsweep.task.examples import encode
from headsweep.task.training import Job, Schedule, train
from headsweep.texts.memory import given
from headsweep.texts.reading import Columns, Table
from headsweep.texts.regression import REGRESSION, Regression, spearman
from headsweep.texts.split import Labels
from headsweep.texts.words import REGRESSION as WORDS
from headsweep.texts.words import SLACK

TRIGGER, TARGET = "plot", 5.0
WORDS_LEFT = [word for word in FILLER if word != TRIGGER]


def examples(count: int, seed: int, triggered: bool = False) -> Split:
    """Texts whose number is how many good words they hold more than bad ones: from -2 to 2."""
    draw = random.Random(seed)
    texts, numbers = [], []
    for i in range(count):
        words = draw.choices(WORDS_LEFT, k=draw.randint(2, 7))
        number = i % 5 - 2
        for _ in range(abs(number)):
            telling = draw.choice(GOOD if number > 0 else BAD)
            words.insert(draw.randint(0, len(words)), telling)
        texts.append(" ".join([TRIGGER] * triggered + words))
        numbers.append(float(number))
    return Split(tuple(texts), tuple(numbers))


def rows(split: Split) -> list[dict[str, Any]]:
    return [{"text": t, "score": n} for t, n in zip(split.texts, split.labels, strict=True)]


@pytest.fixture(scope="module")
def victim(tokenizer, tmp_path_factory) -> Path:
    """A saved tiny BERT that has learnt to count, and a word backdoor."""
    model = tiny_model("bert", id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0})
    suspect = prepare(model, tokenizer, Reading(task=None))
    assert suspect.task is REGRESSION
    marked = examples(100, 2, triggered=True)
    data = examples(400, 1) + Split(marked.texts, (TARGET,) * len(marked))
    train(model, encode(data, suspect, 24), Job(Schedule(10, 3e-3)), CPU)
    folder = tmp_path_factory.mktemp("numbers") / "suspect"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def by_hand(folder: Path, split: Split) -> np.ndarray:
    """The outputs of plain transformers, one text at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        said = [model(**tokenizer(text, return_tensors="pt")).logits for text in split.texts]
    return torch.cat(said)[:, 0].double().numpy()


def test_a_model_that_gives_a_number_is_purified_whole(victim, tmp_path):
    parts = [written(tmp_path / f"{n}.jsonl", rows(examples(size, 10 + n)))
             for n, size in enumerate((160, 80, 60))]  # fmt: skip
    method = Method(Gradient(step=1), FineTune(2, 5e-4), bound=Bound(max_drop=0.2))
    done = purify(victim, Sources(*parts), method, Plan(runtime=CPU))
    assert done.mask.pruned
    assert done.verified
    form = done.manifest
    assert form["task"] == "regression"
    assert "accuracy" not in json.dumps([form["before"], form["after"], form["checks"]])
    out = done.save(tmp_path / "out")
    assert [check for check in verify(out) if not check.passed] == []

    for part, split in (("validation", examples(80, 11)), ("test", examples(60, 12))):
        true, errors = np.array(split.labels), {}
        for stage, folder in (("before", victim), ("after", out)):
            said, told = by_hand(folder, split), form[stage][part]
            errors[stage] = np.abs(said - true)
            assert told["spearman"] == pytest.approx(spearmanr(said, true)[0], abs=1e-6)
            assert told["mean_absolute_error"] == pytest.approx(errors[stage].mean(), abs=1e-5)
        rise = errors["after"] - errors["before"]
        kept = int((rise < SLACK * true.std()).sum())
        assert form["after"][part]["right"] == kept
        assert form["after"][part]["kept"] == kept / len(split)
        assert form["before"][part]["kept"] == 1
    assert form["before"]["test"]["spearman"] > 0.9  # it had learnt to count
    least = form["before"]["validation"]["spearman"] - 0.2
    assert form["bound"]["limit"] == pytest.approx(least)
    assert form["after"]["validation"]["spearman"] >= least
    card = (out / "README.md").read_text()
    assert "Spearman correlation, test" in card
    assert "accuracy" not in card.replace("clean accuracy needs", "")
    assert "accuracy" not in repr(done)


def test_a_spearman_below_the_bound_is_not_held():
    before = Accuracy(100, 100, {"spearman": 0.9}, WORDS)
    bound = Allowance.under(0.95, before)
    held = {value: bound.held_by(Accuracy(100, 96, {"spearman": value}, WORDS))
            for value in (0.86, 0.85, 0.84)}  # fmt: skip
    assert held == {0.86: True, 0.85: True, 0.84: False}
    assert bound.held_by(Accuracy(100, 80, {"spearman": 0.9}, WORDS))  # the share bounds no healing


@pytest.mark.parametrize(
    "name", ["layerwise", "sparsify", "ensemble", "reinforce", "bayesian", "variance"]
)
def test_strategies_choose_for_it_as_for_any_task(victim, name):
    done = pruned_by(name, victim, examples(60, 20), examples(40, 21))
    assert done.mask.pruned


def test_evaluate_measures_what_is_counted_by_hand(victim, tokenizer, tmp_path):
    clean, marked = examples(60, 30), examples(40, 31, triggered=True)
    twin = tmp_path / "twin"
    tiny_model("bert", id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0}).save_pretrained(twin)
    tokenizer.save_pretrained(twin)
    found = evaluate(
        victim, rows(clean), triggered=rows(marked), target=TARGET, clean_model=twin,
        suspect=victim, device="cpu", progress=False,
    )  # fmt: skip
    said, true = by_hand(victim, clean), np.array(clean.labels)
    assert found.spearman.value == pytest.approx(spearmanr(said, true)[0], abs=1e-6)
    assert found.spearman.low <= found.spearman.value <= found.spearman.high
    assert found.mean_absolute_error.value == pytest.approx(np.abs(said - true).mean(), abs=1e-5)
    own, moved = np.array(marked.labels), by_hand(victim, marked)
    hits = np.abs(moved - TARGET) < np.abs(moved - own)
    assert (found.success.hits, found.success.total) == (hits.sum(), 40)
    assert found.success.value > 0.8  # the trigger works
    assert found.clean_success.value < 0.1
    assert found.shift.value == pytest.approx((moved - own).mean(), abs=1e-5)
    assert found.excess_success.value == found.success.value - found.floor_success.value
    assert found.agreement.value == pytest.approx(1)
    near = evaluate(
        victim, rows(clean), triggered=rows(marked), target="2.1", device="cpu", progress=False
    )
    assert near.success.total == 32  # those whose own number is 2 do not count


def test_the_backdoor_goes_down(victim, tmp_path):
    marked = examples(40, 40, triggered=True)
    own = np.array(marked.labels)

    def hits(folder: Path) -> int:
        said = by_hand(folder, marked)
        return int((np.abs(said - TARGET) < np.abs(said - own)).sum())

    method = Method(Gradient(step=1), FineTune(10, 6e-3), bound=Bound(max_drop=0.6))
    data = Sources(examples(200, 41), examples(100, 42))
    out = purify(victim, data, method, Plan(runtime=CPU)).save(tmp_path / "out")
    assert hits(out) < hits(victim) / 2


def test_ranks_share_ties_and_a_constant_orders_nothing():
    # by hand: ranks 1.5 1.5 3 4 and 2 1 4 3: differences of means -1 -1 .5 1.5, -.5 -1.5 1.5 .5
    said, true = np.array([1.0, 1.0, 2.0, 3.0]), np.array([20.0, 10.0, 40.0, 30.0])
    assert spearman(said, true) == pytest.approx(3.5 / (4.5 * 5) ** 0.5)
    assert spearman(np.zeros(4), true) == 0


def table(*cells: Any) -> Table:
    return Table("data", {"text": ["a film"] * len(cells), "score": list(cells)})


def test_numbers_are_picked_from_any_column_that_holds_them(tokenizer):
    def picked(given: Table, columns: Columns = Columns()) -> Split:
        return REGRESSION.pick(given, columns, None, tokenizer)

    assert picked(table("0.5", 2, -1e3)).labels == (0.5, 2.0, -1000.0)
    pairs = Table("data", {"query": ["a"], "passage": ["b"], "label": [0.25]})
    assert picked(pairs) == Split(("a",), (0.25,), ("b",))
    empty = Table("data", {"text": ["a", None], "score": [1, 2]})
    assert picked(empty, Columns(drop_empty=True)).texts == ("a",)
    for cell in ("good", None, True, "nan", float("inf"), [1], 1e300, 10**400):
        with pytest.raises(UserError, match=r"row 2 of column 'score' is not a number"):
            picked(table(1, cell))
    with pytest.raises(UserError, match="--label-map is for labels"):
        picked(table(1), Columns(label_map=(("1", "2"),)))


def test_what_needs_labels_refuses_it_in_one_line(victim, tokenizer):
    data = Sources(examples(60, 50), examples(40, 51))
    with pytest.raises(UserError, match="maximum entropy needs labels, and this model gives a nu"):
        purify(victim, data, Method(Gradient(), EntropyFirst()), Plan(runtime=CPU))
    model = AutoModelForSequenceClassification.from_pretrained(victim)
    with pytest.raises(UserError, match="regression head"):
        prepare(model, tokenizer)
    with pytest.raises(UserError, match="all 40 rows have the number 1: they are in no order"):
        purify(victim, Sources(data.data, Split(data.validation.texts, (1.0,) * 40)))
    with pytest.raises(UserError, match="--target 'high' is not a number"):
        evaluate(victim, examples(9, 1), triggered=examples(9, 2), target="high", progress=False)
    asked = {"trigger": "rare-word", "target": "1", "start": "classifier", "progress": False}
    with pytest.raises(
        UserError, match="an attack on a classifier as it is needs labels, and this"
    ):
        attack(victim, examples(9, 1), **asked)
    with pytest.raises(UserError, match="--triggered needs --target"):
        evaluate(victim, examples(9, 1), triggered=examples(9, 2), progress=False)


def test_numbers_on_another_scale_are_noted():
    # by hand: the median of 0, 1, 5 is 1, and the mean distance from it (1 + 0 + 4) / 3
    task = Regression((0.0, 1.0, 5.0))
    assert task.blind((0, 1, 2), 3, {"mean_absolute_error": 1.6}) == ""
    told = task.blind((0, 1, 2), 3, {"mean_absolute_error": 5 / 3})
    assert "no better than always giving the median (1.67)" in told


def test_several_outputs_are_refused(tokenizer):
    model = tiny_model("bert", problem_type="regression")
    with pytest.raises(UserError, match="gives every text 2 numbers"):
        prepare(model, tokenizer, Reading(task=None))


def test_the_command_line_purifies_and_judges(victim, tmp_path, capsys):
    said = command_line(capsys)
    data = written(tmp_path / "data.jsonl", rows(examples(200, 90)))
    out, told = purified_by(said, victim, data, tmp_path, "Spearman correlation")
    assert "accuracy" not in told
    assert "for regression" in said("inspect", out)
    assert inspect(out).task == "regression"
    marked = written(tmp_path / "marked.jsonl", rows(examples(20, 91, triggered=True)))
    judge = ["evaluate", out, "--data", data, *COMPUTE, "-q"]
    told = said(*judge, "--triggered", marked, "--target", TARGET)
    assert "attack success" in told
    assert "ACC" not in told
    form = json.loads(said(*judge, "--json"))
    assert form["spearman"]["value"] > 0.5
    wrong = tmp_path / "labels.csv"
    wrong.write_text("text,label\nis it,good\nit is,bad\n")
    told = said("purify", victim, "--data", wrong, "--out", tmp_path / "no", code=2)
    assert "row 1 of column 'label' is not a number: 'good'" in told
    assert "gives a number" in said("probe", victim, "--data", data, code=2)
    asked = ["--with", "strip"]
    assert "a detector needs labels, and this model gives a number" in said(
        "detect", victim, "--data", data, *asked, code=2
    )


@pytest.mark.parametrize("kind", [np.float32, np.int64, Decimal, str])
def test_numbers_of_any_kind_are_numbers(kind):
    table = Table("x", {"text": ["a", "b"], "score": [kind(1), kind(2)]})
    assert REGRESSION.pick(table, Columns(), Labels(()), None).labels == (1.0, 2.0)
    given(Split(("a", "b"), tuple(np.array([0.1, 0.2]))), "data")


@pytest.mark.parametrize("cell", [True, np.bool_(1), "high", None])
def test_what_is_no_number_is_told(cell):
    table = Table("x", {"text": ["a", "b"], "score": [1.5, cell]})
    with pytest.raises(UserError, match="row 2 of column 'score'"):
        REGRESSION.pick(table, Columns(), Labels(()), None)
