from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest
import torch

from headsweep.errors import UserError
from headsweep.measure.accuracy import Measured
from headsweep.model.mask import Layout, Row
from headsweep.progress import Silent
from headsweep.prune.search import SEARCHES, bisect, candidates, default_step, greedy


@dataclass
class FakeView:
    """A view whose accuracy falls by a known weight for each pruned unit."""

    layout: Layout
    weights: list[int]
    need: int
    progress: Silent = field(default_factory=Silent)
    gone: frozenset[int] = frozenset()
    asked: list[tuple[int, ...]] = field(default_factory=list)

    def decide(self, mask):
        self.asked.append(mask.pruned)
        right = 100 - sum(self.weights[u] for u in mask.pruned)
        return Measured(right, 100 - right, 100)

    def first_to_hold(self, masks):
        """As a meter: in turn until one holds."""
        found = []
        for mask in masks:
            found.append(self.decide(mask))
            if found[-1].holds(self.need):
                break
        return found

    def confirm(self, mask):
        """As a meter: what was decided exactly is known."""
        right = 100 - sum(self.weights[u] for u in mask.pruned)
        return Measured(right, 100 - right, 100)


LAYOUT = Layout(tuple(Row("head", i, 4, 1, 8) for i in range(2)))
SCORES = torch.tensor([0.1, 0.5, 0.3, 0.9, 0.2, 0.8, 0.4, 0.6])  # ranks: 0 4 2 6 1 7 5 3


def test_the_best_of_each_row_is_no_candidate():
    view = FakeView(LAYOUT, [1] * 8, 0)
    assert candidates(SCORES, view) == [0, 4, 2, 6, 1, 7]
    assert candidates(torch.zeros(8), view) == [0, 1, 2, 4, 5, 6]  # ties: by number
    idle = FakeView(LAYOUT, [1] * 8, 0, gone=frozenset((3, 5)))  # the best of both rows, at zero
    assert candidates(SCORES, idle) == [5, 3, 0, 4, 2, 6]
    assert candidates(SCORES, FakeView(LAYOUT, [1] * 8, 0, gone=frozenset(range(8)))) == [
        0, 4, 2, 6, 1, 7,
    ]  # fmt: skip


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


def random_case(seed):
    """A random layout, scores, step, losses that only add up, and a bound."""
    draw = random.Random(seed)
    units = draw.randint(2, 14)
    layout = Layout(tuple(Row("head", i, units, 1, 8) for i in range(draw.randint(1, 14))))
    scores = torch.rand(layout.units, generator=torch.Generator().manual_seed(seed))
    rare = draw.random() < 0.3
    weights = [0 if rare and draw.random() < 0.9 else draw.randint(0, 3) for _ in scores]
    total = sum(weights)
    need = 100 - draw.choice([0, total, total + 1, draw.randint(0, max(total, 1))])
    return layout, scores, draw.choice([None, 1, 2, 10, 500]), weights, need


@pytest.mark.parametrize("seed", range(300))
def test_bisection_chooses_as_the_loop_where_accuracy_is_monotone(seed):
    layout, scores, step, weights, need = random_case(seed)
    views = [FakeView(layout, weights, need) for _ in range(2)]
    loop, halves = (s(v, scores, step) for s, v in zip((greedy, bisect), views, strict=True))
    assert loop.mask == halves.mask
    groups = -(-len(candidates(scores, views[0])) // (step or default_step(layout.units)))
    tried = len(set(views[1].asked))
    assert tried <= math.ceil(math.log2(groups + 1)) + (step or default_step(layout.units))
    assert len(views[1].asked) - tried <= 2  # known trials: the history goes back to the group


@pytest.mark.parametrize("search", SEARCHES)
def test_a_history_replays_to_the_mask(search):
    for seed in range(60):
        layout, scores, step, weights, need = random_case(seed)
        choice = SEARCHES[search](FakeView(layout, weights, need), scores, step)
        gone: set[int] = set()
        for one in choice.steps:
            gone = gone | set(one.units) if one.action == "prune" else gone - set(one.units)
            assert len(gone) == one.pruned
        whole_model = choice.steps and not choice.mask.pruned  # is never measured
        assert tuple(sorted(gone)) == choice.mask.pruned or whole_model


@pytest.mark.parametrize("search", SEARCHES)
def test_any_accuracy_at_all_keeps_the_bound(search):
    """Accuracy that jumps up and down at random: the mask chosen holds, for both searches."""

    class Jumpy(FakeView):
        def decide(self, mask):
            self.asked.append(mask.pruned)
            return self.confirm(mask)

        def confirm(self, mask):
            right = random.Random(str((self.need, mask.pruned))).randint(60, 100)
            return Measured(right, 100 - right, 100)

    for seed in range(100):
        layout, scores, step, weights, _ = random_case(seed)
        view = Jumpy(layout, weights, 80 + seed % 7)
        choice = SEARCHES[search](view, scores, step)
        assert not choice.mask.pruned or view.confirm(choice.mask).holds(view.need)


def test_where_a_wrong_decision_is_taken_back():
    """A meter that errs (bf16 may): the mask is confirmed and mended exactly."""

    class Erring(FakeView):
        def decide(self, mask):
            self.asked.append(mask.pruned)
            return Measured(100, 0, 100)

    for search in SEARCHES.values():
        choice = search(Erring(LAYOUT, [1, 3, 2, 50, 1, 50, 2, 3], need=91), SCORES, 2)
        assert choice.mask.pruned == (0, 1, 2, 4, 6)
        assert [s.action for s in choice.steps[-1:]] == ["confirm"]


def test_bisection_asks_for_the_logarithm_of_the_heads():
    asked = {}
    for layers in (6, 12, 24, 48):
        layout = Layout(tuple(Row("head", i, 12, 1, 8) for i in range(layers)))
        view = FakeView(layout, [0] * layout.units, need=100)
        bisect(view, torch.rand(layout.units, generator=torch.Generator().manual_seed(0)))
        asked[layout.units] = len(view.asked)
    assert asked == {72: 3, 144: 4, 288: 5, 576: 6}
