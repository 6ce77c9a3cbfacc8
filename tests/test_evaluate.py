from __future__ import annotations

import pytest
import torch

from headsweep.data import Split
from headsweep.errors import UserError
from headsweep.evaluate import Answers, Exam, Triggered, judge

NAMES = ("negative", "positive")


def answers(*predicted):
    """Logits that predict these classes."""
    return torch.nn.functional.one_hot(torch.tensor(predicted), 2).float()


CLEAN = Split(tuple("abcdef"), (0, 0, 0, 0, 1, 1))


def test_rates_by_hand():
    """Clean: 4 of 6 right, 1 of 4 negatives flipped. Triggered: rows of the target left out."""
    triggered = Triggered(Split(tuple("uvwxy"), (0, 1, 0, 0, 1)), target=1)
    assert triggered.non_target().texts == ("u", "w", "x")
    model = Answers(answers(0, 1, 0, 0, 1, 0), answers(1, 1, 0))
    twin = Answers(answers(0, 0, 0, 0, 1, 1), answers(0, 1, 0))
    found = judge(Exam(CLEAN, triggered), NAMES, model, twin, suspect=model)
    assert (found.accuracy.hits, found.accuracy.total) == (4, 6)
    assert {n: (r.hits, r.total) for n, r in found.per_class.items()} == {
        "negative": (3, 4),
        "positive": (1, 2),
    }
    assert (found.lfr.hits, found.lfr.total) == (2, 3)
    assert (found.cfr.hits, found.cfr.total) == (1, 4)
    assert (found.floor_lfr.hits, found.floor_lfr.total) == (1, 3)
    assert found.agreement.value == 1
    assert found.matched_lfr is None  # no validation data


def test_attacker_labels_count_every_row():
    triggered = Triggered(Split(("u", "v"), (1, 1)), target=1, labels="target")
    assert len(triggered.non_target()) == 2
    with pytest.raises(UserError, match="every row must carry the target label"):
        Triggered(Split(("u", "v"), (1, 0)), 1, "target").non_target()


def test_an_empty_denominator_is_an_error():
    with pytest.raises(UserError, match="no triggered example"):
        Triggered(Split(("u", "v"), (1, 1)), target=1).non_target()
    only = Exam(Split(("a",), (1,)), Triggered(Split(("u",), (0,)), 1))
    with pytest.raises(UserError, match="no clean flip rate"):
        judge(only, NAMES, Answers(answers(1), answers(1)))


def test_matched_and_excess_use_the_twin_else_the_suspect():
    """The model leans away from the target by 3; matching takes that back."""
    val = Split(tuple("abcd"), (0, 0, 0, 0))
    triggered = Triggered(Split(tuple("uv"), (0, 0)), 1)
    reference = torch.tensor([[0.0, -2], [0, -1], [0, 1], [0, -3]])
    hit = torch.tensor([[0.0, 2], [0, 2]])
    lean = torch.tensor([0.0, -3])
    twin = Answers(answers(0, 0, 0, 0, 1, 1), torch.tensor([[0.0, 2], [0, -2]]), reference)
    model = Answers(answers(0, 0, 0, 0, 1, 1), hit + lean, reference + lean)
    exam = Exam(CLEAN, triggered, val)
    found = judge(exam, NAMES, model, twin)
    assert found.lfr.value == 0
    assert found.matched_lfr.value == 1
    assert found.excess_lfr.value == 0.5
    assert found.reference == "clean twin"
    alone = judge(exam, NAMES, model, suspect=model)
    assert alone.reference == "suspect"
    assert alone.matched_lfr.value == 0
    assert alone.excess_lfr is None


def test_a_twin_with_other_labels_is_refused(trained_folder, tmp_path, tokenizer):
    from conftest import CPU, tiny_model
    from headsweep.evaluate import Files, evaluate

    names = {"id2label": {0: "good", 1: "bad"}, "label2id": {"good": 0, "bad": 1}}
    tiny_model("bert", **names).save_pretrained(tmp_path / "swapped")
    tokenizer.save_pretrained(tmp_path / "swapped")
    data = tmp_path / "d.csv"
    data.write_text("text,label\na film,good\na plot,bad\n")
    files = Files(str(data), clean_model=str(tmp_path / "swapped"))
    with pytest.raises(UserError, match="has labels good, bad"):
        evaluate(trained_folder, files, CPU)
