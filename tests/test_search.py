from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from headsweep.errors import UserError
from headsweep.heads import Layout, Row
from headsweep.predict import Measured
from headsweep.progress import Silent
from headsweep.search import candidates, default_step, greedy


@dataclass
class FakeView:
    """A view whose accuracy falls by a known weight for each pruned unit."""

    layout: Layout
    weights: list[int]
    need: int
    progress: Silent = field(default_factory=Silent)
    asked: list[tuple[int, ...]] = field(default_factory=list)

    def decide(self, mask):
        self.asked.append(mask.pruned)
        right = 100 - sum(self.weights[u] for u in mask.pruned)
        return Measured(right, 100 - right, 100)


LAYOUT = Layout(tuple(Row("head", i, 4, 1, 8) for i in range(2)))
SCORES = torch.tensor([0.1, 0.5, 0.3, 0.9, 0.2, 0.8, 0.4, 0.6])  # ranks: 0 4 2 6 1 7 5 3


def test_the_best_of_each_row_is_no_candidate():
    assert candidates(SCORES, LAYOUT) == [0, 4, 2, 6, 1, 7]
    assert candidates(torch.zeros(8), LAYOUT) == [0, 1, 2, 4, 5, 6]  # ties: by number


def test_greedy_by_hand():
    """Groups (0 4) (2 6) (1 7) cost 2, 4, 6; at most 9 may be lost, so of the last pair 7 comes back."""
    view = FakeView(LAYOUT, [1, 3, 2, 50, 1, 50, 2, 3], need=91)
    choice = greedy(view, SCORES, step=2)
    assert view.asked == [(0, 4), (0, 2, 4, 6), (0, 1, 2, 4, 6, 7), (0, 1, 2, 4, 6)]
    assert choice.mask.pruned == (0, 1, 2, 4, 6)
    assert [step.action for step in choice.steps] == ["prune", "prune", "prune", "restore"]
    assert [step.held for step in choice.steps] == [True, True, False, True]
    assert choice.steps[-1].units == (7,)  # best score of its group first


def test_everything_may_go_but_one_a_row():
    view = FakeView(LAYOUT, [0] * 8, need=100)
    mask = greedy(view, SCORES, step=4).mask
    assert mask.pruned == (0, 1, 2, 4, 6, 7)
    assert not mask.empties_a_row


def test_nothing_may_go():
    view = FakeView(LAYOUT, [5] * 8, need=100)
    choice = greedy(view, SCORES, step=3)
    assert choice.mask.pruned == ()
    assert view.asked == [(0, 2, 4), (0, 4), (0,)]  # the whole model is not measured again


def test_step_sizes():
    assert [default_step(units) for units in (3, 8, 72, 144)] == [1, 1, 10, 10]
    with pytest.raises(UserError, match="at least 1"):
        greedy(FakeView(LAYOUT, [0] * 8, 0), SCORES, step=0)
