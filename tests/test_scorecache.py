"""Kept scores: found again only where nothing that decides them has changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import CPU, sentences
from headsweep.prune.importance import attention_variance, gate_importance
from headsweep.prune.scores import ScoreCache
from headsweep.prune.view import DefenderView
from headsweep.task.examples import encode


@pytest.fixture
def view(tiny, tmp_path):
    suspect = tiny("bert")
    encoded = encode(sentences(40), suspect, 24)
    scores = ScoreCache(tmp_path / "scores", "code")
    return DefenderView(suspect.anatomy, encoded, encoded, 0.0, 0, CPU, scores=scores)


def names(view):
    return [one.name for one in view.scores.taken]


def test_a_kept_score_is_the_computed_one_bit_for_bit(view):
    for score in (gate_importance, attention_variance):
        alone = score(replace(view, scores=None), 30)
        assert torch.equal(score(view, 30), alone)
        assert torch.equal(score(view, 30), alone)
    assert names(view) == ["gate_importance", "attention_variance"]
    assert torch.equal(gate_importance(view, examples=30), gate_importance(view, 30))
    assert len(names(view)) == 4


def test_whatever_decides_a_score_makes_it_another(view):
    gate_importance(view)
    others = [
        lambda: gate_importance(view, 10),
        lambda: gate_importance(replace(view, seed=1)),
        lambda: gate_importance(replace(view, runtime=replace(CPU, batch_size=8))),
        lambda: gate_importance(replace(view, train=view.train.take(range(20)))),
        lambda: attention_variance(view),
        lambda: gate_importance(replace(view, scores=ScoreCache(view.scores.folder, "other code"))),
    ]
    for other in others:
        other()
    assert names(view) == []
    with torch.no_grad():
        next(view.anatomy.model.parameters()).flatten()[0] += 1e-3
    before = gate_importance(replace(view, scores=None))
    assert torch.equal(gate_importance(view), before)
    assert names(view) == []


def test_a_broken_file_is_computed_again(view):
    first = gate_importance(view)
    [path] = view.scores.folder.iterdir()
    path.write_bytes(path.read_bytes()[:20])
    assert torch.equal(gate_importance(view), first)
    assert names(view) == []
    assert torch.equal(gate_importance(view), first)
    assert names(view) == ["gate_importance"]
