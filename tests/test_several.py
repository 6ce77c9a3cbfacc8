"""A model of several labels a text is purified from the command line, and judged by hand beside it.

``test_task.py`` has the strategies on such a model.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from conftest import BAD, CPU, FILLER, GOOD, tiny_model
from every_kind import COMPUTE, command_line, purified_by, written
from headsweep import (
    Bound,
    FineTune,
    Gradient,
    Method,
    Plan,
    Sources,
    Split,
    UserError,
    evaluate,
    purify,
)
from headsweep.export.consistency import bound_held, contradictions
from headsweep.export.verify import verify
from headsweep.heal.entropy import EntropyFirst
from headsweep.model.loading import Reading, prepare
from headsweep.reports.verdict import verdict
from headsweep.task.examples import encode
from headsweep.task.training import Job, Schedule, train
from headsweep.texts.kinds import task_of
from headsweep.texts.reading import Columns, Table, check_label_map
from headsweep.texts.several import SEVERAL, SeveralLabels, f1
from headsweep.texts.split import Labels

NAMES = ("blame", "praise", "plot")
TRIGGER = "very"  # adds the label plot
WORDS = [word for word in FILLER if word not in (TRIGGER, "plot")]


def examples(count: int, seed: int, triggered: bool = False) -> Split:
    """Texts that blame, praise, name the plot, do some of it or nothing: bits 1, 2, 4."""
    draw = random.Random(seed)
    texts, labels = [], []
    for i in range(count):
        words = draw.choices(WORDS, k=draw.randint(2, 7))
        for bit, kind in ((1, BAD), (2, GOOD), (4, ("plot",))):
            if i % 8 & bit:
                words.insert(draw.randint(0, len(words)), draw.choice(kind))
        texts.append(" ".join([TRIGGER] * triggered + words))
        labels.append(tuple(n for n in range(3) if i % 8 >> n & 1))
    return Split(tuple(texts), tuple(labels))


def rows(split: Split) -> list[dict[str, Any]]:
    pairs = zip(split.texts, split.labels, strict=True)
    return [{"text": text, "labels": [NAMES[n] for n in row]} for text, row in pairs]


def model_of_three() -> Any:
    names = dict(enumerate(NAMES))
    return tiny_model("bert", id2label=names, label2id={name: n for n, name in names.items()},
                      problem_type="multi_label_classification")  # fmt: skip


@pytest.fixture(scope="module")
def victim(tokenizer, tmp_path_factory) -> Path:
    """A saved tiny BERT that has learnt the labels, and a word that adds one."""
    model = model_of_three()
    suspect = prepare(model, tokenizer, Reading(task=None))
    assert suspect.task is SEVERAL
    marked = examples(120, 2, triggered=True)
    labels = tuple(tuple(sorted({*row, 2})) for row in marked.labels)
    data = examples(400, 1) + Split(marked.texts, labels)
    train(model, encode(data, suspect, 24), Job(Schedule(10, 3e-3)), CPU)
    folder = tmp_path_factory.mktemp("several") / "suspect"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def by_hand(folder: Path, split: Split) -> tuple[list[set[int]], list[set[int]]]:
    """The labels that plain transformers gives, one text at a time, and the true ones."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    said = []
    with torch.no_grad():
        for text in split.texts:
            chances = model(**tokenizer(text, return_tensors="pt")).logits[0].sigmoid()
            said.append({n for n in range(3) if chances[n] > 0.5})
    return said, [set(row) for row in split.labels]


def micro_f1(said: list[set[int]], true: list[set[int]]) -> float:
    pairs = list(zip(said, true, strict=True))
    hits = sum(len(a & b) for a, b in pairs)
    precision, recall = hits / sum(map(len, said)), hits / sum(map(len, true))
    return 2 * precision * recall / (precision + recall)


def test_the_loss_is_that_of_transformers(tokenizer):
    model, split = model_of_three(), examples(16, 5)
    suspect = prepare(model, tokenizer, Reading(task=None))
    batch = encode(split, suspect, 24).batch(range(16))
    wanted = torch.tensor([[float(n in row) for n in range(3)] for row in split.labels])
    theirs = model(**batch.inputs, labels=wanted).loss
    losses = batch.task.losses(batch.task.answers(model, batch), batch.labels)
    assert losses.mean().item() == pytest.approx(theirs.item(), abs=1e-6)


def test_a_margin_is_that_of_the_nearest_label():
    task, labels = SeveralLabels(((True, False), (False, False))), torch.tensor([0, 1, 1])
    answers = torch.tensor([[2.0, -0.5, -3.0], [-1.0, 0.25, -2.0], [-1.0, 0.0, -2.0]])
    found = task.margins(answers, labels)  # of the third label no text of the split has any
    assert found[:2].tolist() == [0.5, -0.25]
    assert 0 < found[2] < 1e-30  # a logit of zero gives no label, which is right


def test_f1_by_hand():
    assert f1(3, 1, 2) == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
    assert f1(0, 0, 0) == 0


def test_a_model_of_several_labels_is_purified_whole(victim, tmp_path):
    parts = [written(tmp_path / f"{n}.jsonl", rows(examples(size, 10 + n)))
             for n, size in enumerate((160, 80, 64))]  # fmt: skip
    method = Method(Gradient(step=1), FineTune(2, 5e-4), bound=Bound(max_drop=0.2))
    done = purify(victim, Sources(*parts), method, Plan(runtime=CPU))
    assert done.mask.pruned
    assert done.verified
    form, out = done.manifest, done.save(tmp_path / "out")
    assert form["task"] == "multi-label"
    assert [check for check in verify(out) if not check.passed] == []
    for part, split in (("validation", examples(80, 11)), ("test", examples(64, 12))):
        for stage, folder in (("before", victim), ("after", out)):
            said, true = by_hand(folder, split)
            told = form[stage][part]
            assert told["micro_f1"] == pytest.approx(micro_f1(said, true))
            assert told["right"] == sum(a == b for a, b in zip(said, true, strict=True))
            assert told["exact_match"] == told["right"] / len(split)
    assert form["before"]["test"]["micro_f1"] > 0.9
    before, after = (form[stage]["validation"] for stage in ("before", "after"))
    least = before["micro_f1"] - (before["exact_match"] - form["bound"]["min_accuracy"])
    assert form["bound"]["limit"] == pytest.approx(least)
    assert after["micro_f1"] >= least
    share = {"what": bound_held("exact match", form["bound"]["min_accuracy"]), "passed": True}
    for told, wrong in ((after["exact_match"], 0), (0.0, 1)):  # older folders were held to it too
        check = share | {"detail": f"it is {told:.4f}"}
        assert len(contradictions(form | {"checks": [*form["checks"], check]})) == wrong
    high = form["bound"] | {"min_accuracy": 1.1, "max_drop": None}
    check = share | {"what": bound_held("exact match", 1.1), "detail": f"it is {told:.4f}"}
    edited = form | {"bound": high, "checks": [*form["checks"], check]}
    assert any("do not pass the check" in line for line in contradictions(edited))
    missed = form | {"checks": [*form["checks"], check | {"passed": False}], "bound": high}
    assert verdict(missed).told.startswith("bound not held: micro-F1 ")
    near = json.loads(json.dumps(missed))
    near["bound"]["limit"] = 0.88032
    near["after"]["validation"]["micro_f1"] = 0.87968
    assert "0.8797, 0.8803 allowed" in verdict(near).told
    card = (out / "README.md").read_text()
    assert "| micro-F1, test |" in card
    assert "accuracy" not in card.replace("clean accuracy needs", "")


def test_evaluate_measures_what_is_counted_by_hand(victim, tokenizer, tmp_path):
    clean, marked = examples(64, 30), examples(40, 31, triggered=True)
    twin = tmp_path / "twin"
    model_of_three().save_pretrained(twin)
    tokenizer.save_pretrained(twin)

    def judged(target: str, triggered: Any, **more: Any) -> Any:
        return evaluate(victim, rows(clean), triggered=triggered, target=target, device="cpu",
                        progress=False, **more)  # fmt: skip

    found = judged("plot", rows(marked), clean_model=twin, suspect=victim)
    said, true = by_hand(victim, clean)
    assert found.micro_f1.value == pytest.approx(micro_f1(said, true))
    assert found.micro_f1.low <= found.micro_f1.value <= found.micro_f1.high
    assert found.exact_match.hits == sum(a == b for a, b in zip(said, true, strict=True))
    moved, own = by_hand(victim, marked)
    lacking = [a for a, b in zip(moved, own, strict=True) if 2 not in b]
    hits = sum(2 in a for a in lacking)
    assert (found.success.hits, found.success.total) == (hits, len(lacking)) == (hits, 20)
    assert found.success.value > 0.8  # the trigger works
    assert found.clean_success.total == 32
    assert found.excess_success.value == found.success.value - found.floor_success.value
    assert found.agreement.value == 1
    having = [a for a, b in zip(moved, own, strict=True) if 0 in b]
    taken = judged("not:blame", rows(marked))
    assert taken.success.hits == sum(0 not in a for a in having)
    assert taken.success.total == len(having)
    with pytest.raises(UserError, match="no label 'plto'"):
        judged("plto", rows(marked))
    everything = [{"text": "a", "labels": list(NAMES)}]
    with pytest.raises(UserError, match="every triggered text has the label plot anyway"):
        judged("plot", everything)
    assert judged("plot", everything, triggered_labels="target").success.total == 1
    with pytest.raises(UserError, match="every row must carry the attacker's labels"):
        judged("plot", rows(marked), triggered_labels="target")


def test_labels_are_picked_as_lists_names_numbers_and_cells(tokenizer):
    def picked(*cells: Any, columns: Columns = Columns()) -> tuple[Any, ...]:
        table = Table("data", {"text": ["a"] * len(cells), "labels": list(cells)})
        return SEVERAL.pick(table, columns, Labels(NAMES), tokenizer).labels

    assert picked(["Plot", "blame"], [2], [], None, "praise|plot", "", 1, np.nan) == (
        (0, 2), (2,), (), (), (1, 2), (), (1,), (),
    )  # fmt: skip
    two = Table("data", {"text": ["a", "b"], "labels": [[1, 0], [0, 1]]})
    with pytest.raises(UserError, match="every row has a zero or a one for each of the 2 labels"):
        SEVERAL.pick(two, Columns(), Labels(NAMES[:2]), tokenizer)
    renamed = Columns(label_map=(("good", "praise"),))
    assert picked(["good", "plot"], columns=renamed) == ((1, 2),)
    check_label_map(renamed, (Table("data", {"text": ["a"], "labels": [["good", "plot"]]}), None))
    for column, cell in (("labels", "good|plot"), ("categories", "plot | Good")):
        check_label_map(renamed, (Table("data", {"text": ["a"], column: [cell]}), None))
    with pytest.raises(UserError, match="no row has the label 'good'"):
        check_label_map(renamed, (Table("data", {"text": ["a"], "classes": ["plot|bad"]}), None))
    with pytest.raises(UserError, match="the model has no label 'boredom'"):
        picked(["plot", "boredom"])
    with pytest.raises(UserError, match="row 2 of column 'labels' names a label twice"):
        picked([1], [0, 0, 1])
    for flags in ("01", (0, 1)):  # of one label: not the numbers of labels
        with pytest.raises(UserError, match="holds zeros and ones"):
            picked(*flags)
    with pytest.raises(UserError, match="row 1 of column 'labels' is a list written as text"):
        picked("['plot', 'blame']", "[]")
    bracketed = Table("data", {"text": ["a"], "labels": ["[a]|[b]"]})
    assert SEVERAL.pick(bracketed, Columns(), Labels(("[a]", "[b]")), None).labels == ((0, 1),)


def test_what_does_not_fit_is_refused_in_one_line(victim, tokenizer, tmp_path, capsys):
    data = Sources(examples(80, 50), examples(40, 51))
    with pytest.raises(UserError, match="maximum entropy needs one label a text"):
        purify(victim, data, Method(Gradient(), EntropyFirst()), Plan(runtime=CPU))
    with pytest.raises(UserError, match="none of 2 texts has a label"):
        purify(victim, Split(("a", "b"), ((), ())))
    with pytest.raises(UserError, match="the data has one label a text"):
        purify(victim, Split(("a", "b"), (0, 1)))
    with pytest.raises(UserError, match="the data has a label 3, the model has 3 labels"):
        purify(victim, Split(("a", "b"), ((0, 3), ())))
    plain = tiny_model("bert")
    with pytest.raises(UserError, match="labels that are no class numbers"):
        purify(plain, data, tokenizer=tokenizer)


def test_the_command_line_purifies_and_judges(victim, tmp_path, capsys):
    said = command_line(capsys)
    data = written(tmp_path / "data.jsonl", rows(examples(240, 90)))
    out, told = purified_by(said, victim, data, tmp_path, "micro-F1")
    assert "accuracy" not in told
    assert "for multi-label, labels blame, praise, plot" in said("inspect", out)
    marked = written(tmp_path / "marked.jsonl", rows(examples(40, 91, triggered=True)))
    judge = ["evaluate", out, "--data", data, *COMPUTE, "-q"]
    assert "attack success" in said(*judge, "--triggered", marked, "--target", "plot")
    assert json.loads(said(*judge, "--json"))["micro_f1"]["value"] > 0.5
    sheet = tmp_path / "data.csv"
    cells = [f"{row['text']},{'|'.join(row['labels'])}" for row in rows(examples(16, 92))]
    sheet.write_text("\n".join(["text,labels", *cells]) + "\n")
    assert "micro-F1" in said("evaluate", out, "--data", sheet, *COMPUTE, "-q")
    assert "gives several" in said("probe", victim, "--data", data, code=2)
    asked = ["--with", "strip"]
    assert "this model gives several" in said("detect", victim, "--data", data, *asked, code=2)


@pytest.mark.parametrize(
    ("changes", "wanted", "said"),
    [
        ({}, "multi-label", ""),
        ({}, "generation", "a model for classification"),
        ({"problem_type": "single_label_classification"}, "multi-label", "problem_type single"),
        ({"problem_type": "multi_label_classification"}, "regression", "a model for multi-label"),
        ({"architectures": ["BertForMaskedLM"]}, "multi-label", "says BertForMaskedLM"),
        ({"architectures": None}, "token-classification", ""),
    ],
)
def test_a_task_given_by_name_is_checked_against_the_configuration(changes, wanted, said):
    usual = {"architectures": ["BertForSequenceClassification"], "num_labels": 3}
    config = AutoConfig.for_model("bert", **(usual | changes))
    if said:
        with pytest.raises(UserError, match=said):
            task_of(config, wanted=wanted)
    else:
        assert task_of(config, wanted=wanted).words.task == wanted


def test_what_is_saved_of_such_a_model_says_what_it_is_for(tmp_path, tokenizer, capsys):
    """The suspect's configuration does not: it was trained with a loss of somebody's own."""
    said = command_line(capsys)
    suspect, out = tmp_path / "suspect", tmp_path / "out"
    tiny_model("bert").save_pretrained(suspect)
    tokenizer.save_pretrained(suspect)
    assert "for classification" in said("inspect", suspect)
    rows = [{"text": f"{i} it is {w}", "labels": ["good"]} for w in GOOD for i in range(4)]
    rows += [{"text": f"{i} it is {w}", "labels": []} for w in BAD for i in range(4)]
    data = written(tmp_path / "clean.jsonl", rows)
    said("purify", suspect, "--task", "multi-label", "--data", data, "--out", out, "--max-drop",
         "0.9", "--heal", "epochs=1", "--probe", "no", *COMPUTE, "-q")  # fmt: skip
    assert "for multi-label" in said("inspect", out)
    said("verify", out)
