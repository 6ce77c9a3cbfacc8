"""Every faithful strategy on the wired model: what it finds, what it cannot, and why.

What is expected follows from the wiring (oracle.py) by the argument in each docstring.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from headsweep.model.gates import gates
from headsweep.prune.flips import flip_contribution
from headsweep.prune.importance import attention_variance, gate_importance
from headsweep.prune.strategies import STRATEGIES
from headsweep.prune.strategies.probe_guided import combined
from headsweep.prune.strategies.sparsify import groups, norm
from headsweep.settings import configure
from headsweep.task.examples import forward
from oracle import BACKDOOR, HEADS, TASK, accuracy, lfr, view, wired


def choose(name, settings, kind, seed=0):
    anatomy = wired(kind)
    return anatomy, configure(STRATEGIES[name], settings).choose(view(anatomy, seed))


@pytest.mark.parametrize("kind", ["idle", "sharp"])
def test_the_model_is_wired_as_described(kind):
    """Task and backdoor work; each depends on its one head and on no other."""
    anatomy = wired(kind)
    layout = anatomy.layout
    assert accuracy(anatomy) == 1
    assert lfr(anatomy) == 1
    assert accuracy(anatomy, layout.mask([TASK])) == 0.5
    assert lfr(anatomy, layout.mask([BACKDOOR])) == 0
    assert accuracy(anatomy, layout.mask([BACKDOOR])) == 1
    others = [unit for unit in range(layout.units) if unit not in (TASK, BACKDOOR)]
    assert accuracy(anatomy, layout.mask(others[:-1])) == 1
    assert lfr(anatomy, layout.mask(others[:-1])) == 1


@pytest.mark.parametrize("kind", ["idle", "sharp"])
def test_gradient_finds_it_first(kind):
    """The head's output is zero on clean text, so its gate gradient is; no other's is zero."""
    anatomy, choice = choose("gradient", ["step=1", "search=step"], kind)
    scores = gate_importance(view(anatomy))
    assert scores[BACKDOOR] < 1e-5
    assert all(scores[unit] > 1e-4 for unit in range(2 * HEADS) if unit != BACKDOOR)
    assert choice.steps[0].units[0] == BACKDOOR
    assert choice.mask.flat[TASK]
    assert lfr(anatomy, choice.mask) == 0


def test_the_key_score_finds_it_idle():
    """Zero values make attention irrelevant, so the key gradient of the head is zero too."""
    for kind in ("idle", "sharp"):
        anatomy, choice = choose("gradient", ["score=key", "step=1"], kind)
        assert choice.steps[0].units[0] == BACKDOOR
        assert lfr(anatomy, choice.mask) == 0


def test_an_entangled_backdoor_is_found_by_probes_and_not_by_clean_gradients():
    """No head matters more to clean text, so ``gradient`` keeps it as its layer's best, whatever
    the bound. Alone among all heads it carries the flip of the probes (the word PROBE, which is
    not the trigger): it goes, first with a high weight, and the task head, which carries none of it, answers for both.
    """
    anatomy = wired("entangled")
    layout = anatomy.layout
    assert accuracy(anatomy) == 1
    assert lfr(anatomy) == 1
    assert accuracy(anatomy, layout.mask([BACKDOOR])) == 1
    assert lfr(anatomy, layout.mask([BACKDOOR])) == 0
    assert gate_importance(view(anatomy))[:HEADS].argmax() == BACKDOOR
    for bound in (0.9, 0.0):
        choice = STRATEGIES["gradient"](step=1).choose(view(anatomy, min_accuracy=bound))
        assert choice.mask.flat[BACKDOOR]
    assert lfr(anatomy, STRATEGIES["gradient"](step=1).choose(view(anatomy)).mask) == 1
    found = {one.label: one for one in flip_contribution(view(anatomy))}
    assert found[1].flips == 1
    assert found[0].flips == 0
    assert found[1].contribution.argmax() == BACKDOOR
    assert lfr(anatomy, STRATEGIES["probe-guided"](step=1).choose(view(anatomy)).mask) == 0
    choice = STRATEGIES["probe-guided"](step=1, weight=2).choose(view(anatomy))
    assert choice.steps[0].units == (BACKDOOR,)
    assert choice.mask.flat[TASK]
    assert lfr(anatomy, choice.mask) == 0
    assert accuracy(anatomy, choice.mask) == 1
    blind = STRATEGIES["probe-guided"](step=1, weight=0).choose(view(anatomy))
    assert lfr(anatomy, blind.mask) == 1


def test_flip_contribution_is_the_gradient_of_the_margin_by_finite_differences():
    """Closing a gate by a little moves the probes' margin, less the originals', as it says."""
    anatomy = wired("entangled")
    own = view(anatomy)
    family = own.probes.families[0]
    rows = [i for i, label in enumerate(family.clean.labels) if label == 0]
    layout, step = anatomy.layout, 1e-2

    def gap(values):
        with gates(anatomy, values), torch.no_grad():
            found = [forward(anatomy.model, e.batch(rows)) for e in (family.probes, family.clean)]
        after, before = ((each[:, 1] - each[:, 0]).double().mean() for each in found)
        return float(after - before)

    slopes = []
    for unit in range(layout.units):
        moved = torch.zeros(layout.units)
        moved[unit] = step
        slopes.append((gap(1 + moved) - gap(1 - moved)) / (2 * step))
    expected = torch.tensor(slopes)
    found = flip_contribution(own, None)[1].contribution
    assert torch.allclose(found, expected / expected.std(), atol=0.02)


def test_a_label_that_the_pairs_do_not_hold_leaves_the_scores_numbers():
    """Else one rare label makes every score NaN, and the order of the heads arbitrary."""
    own = view(wired("entangled"))
    family = own.probes.families[0]
    rows = [i for i, label in enumerate(family.clean.labels) if label == 0]
    one = replace(own, probes=replace(own.probes, families=(family.take(rows),)))
    into = {flips.label: flips for flips in flip_contribution(one, None)}
    assert into[0].flips == 0
    assert not into[0].contribution.any()
    score, shares = combined(list(into.values()))
    assert torch.isfinite(score).all()
    assert score.any()
    assert sum(shares) == pytest.approx(1)


def test_variance_finds_the_idle_kind_first():
    """It attends to all tokens alike: variance zero; every other head prefers some token."""
    anatomy, choice = choose("variance", ["step=1", "search=step"], "idle")
    scores = attention_variance(view(anatomy))
    assert scores[BACKDOOR] < 1e-12
    assert sorted(scores.tolist())[1] > 1e-6
    assert choice.steps[0].units[0] == BACKDOOR
    assert lfr(anatomy, choice.mask) == 0


def test_variance_and_layerwise_cannot_find_the_sharp_kind():
    """The highest variance of its layer: the greedy loop keeps it as the layer's best, and the
    quota of layer 0 takes int(8 * 0.2) = 1 head, the lowest.
    """
    for name in ("variance", "layerwise"):
        anatomy, choice = choose(name, [], "sharp")
        scores = attention_variance(view(anatomy))
        assert scores[:HEADS].argmax() == BACKDOOR
        assert choice.mask.flat[BACKDOOR]
        assert lfr(anatomy, choice.mask) == 1


def test_layerwise_takes_the_idle_kind_as_its_layers_one_head():
    """Quota of layer 0: int(8 * 0.2) = 1, the lowest variance; layer 1: int(8 * 0.8) = 6."""
    anatomy, choice = choose("layerwise", [], "idle")
    assert [head for layer, head in choice.mask.pruned_heads if layer == 0] == [BACKDOOR]
    assert sum(layer == 1 for layer, _ in choice.mask.pruned_heads) == 6
    assert lfr(anatomy, choice.mask) == 0


def test_sparsify_zeroes_what_is_weaker_than_the_shrinkage():
    """With a learning rate too small to learn, every group loses the same norm in all: strength
    times the average norm (all have the same size). What had less is exactly zero, what had
    more lives. A zero group has gate gradient zero and goes first.
    """
    anatomy = wired("idle")
    found = groups(anatomy)
    norms = torch.stack([norm(group) for group in found]).detach()
    wanted = float(norms[1]) * 1.05  # just above a filler head of layer 0
    strength = wanted / float(norms.mean())
    settings = [f"strength={strength}", "lr=1e-6", "decay=0", "epochs=1", "step=1"]
    choice = configure(STRATEGIES["sparsify"], settings).choose(view(anatomy))
    after = torch.tensor(choice.record["norms_after"])
    assert (after[norms < wanted * 0.98] == 0).all()
    assert (after[norms > wanted * 1.02] > 0).all()
    assert after[1] == 0
    assert after[TASK] > 0
    assert lfr(anatomy, choice.mask) == (0 if not choice.mask.flat[BACKDOOR] else 1)


def test_bayesian_finds_it_at_the_uncertain_end_only():
    """Dropout breaks the cancelling that makes its clean output zero, so the output is noise
    around a mean of nearly zero: the highest relative variance. Pruning the certain end first
    it is kept to the last, as the layer's best.
    """
    for kind in ("idle", "sharp"):
        anatomy, choice = choose("bayesian", ["prune=uncertain", "step=1"], kind)
        uncertainty = STRATEGIES["bayesian"]().uncertainty(view(anatomy))
        assert uncertainty[:HEADS].argmax() == BACKDOOR
        assert not choice.mask.flat[BACKDOOR]
        assert lfr(anatomy, choice.mask) == 0
        anatomy, choice = choose("bayesian", ["prune=certain", "step=1"], kind)
        assert choice.mask.flat[BACKDOOR]
        assert lfr(anatomy, choice.mask) == 1


def test_the_ensemble_cannot_know():
    """Its masks are drawn before the model is looked at: with every member surviving, the same
    heads go wherever the backdoor is wired.
    """
    first = wired("idle", backdoor=3)
    second = wired("idle", backdoor=6)
    strategy = configure(STRATEGIES["ensemble"], ["size=5", "per_layer=1", "combine=union"])
    masks = [strategy.choose(view(a, seed=4, min_accuracy=0.0)).mask for a in (first, second)]
    assert masks[0] == masks[1]
    assert masks[0].pruned
    assert lfr(first, masks[0]) == float(masks[0].flat[3])
    assert lfr(second, masks[1]) == float(masks[1].flat[6])


def test_reinforce_beats_random_pruning_at_the_same_count():
    """Ten seeds: mean reward and LFR against random masks of the same size, 95% intervals of the
    paired differences (normal approximation) exclude zero.

    Why: only the task head costs accuracy, so the policy learns to give up all others and the
    backdoor's with them; random masks of that size hit the task head as often as any.
    """
    rewards, flips = [], []
    for seed in range(10):
        anatomy = wired("idle")
        own = view(anatomy, seed)
        strategy = configure(STRATEGIES["reinforce"], ["updates=30", "samples=6", "batch=32"])
        mask = strategy.choose(own).mask
        count = len(mask.pruned)
        control = configure(STRATEGIES["random"], [f"count={count}"]).choose(own).mask
        gained = []
        for each in (mask, control):
            drawn = torch.tensor([each.flat])
            found = torch.tensor([own.accuracy(each)])
            gained.append(float(strategy._rewards(found, drawn, own)))
        rewards.append(gained[0] - gained[1])
        flips.append(lfr(anatomy, control) - lfr(anatomy, mask))
    for differences in (torch.tensor(rewards), torch.tensor(flips)):
        error = differences.std() / math.sqrt(len(differences))
        assert differences.mean() - 1.96 * error > 0


def test_reinforce_learns():
    """The mean reward of the last updates is above that of the first."""
    _, choice = choose("reinforce", ["updates=40", "samples=6", "batch=32"], "idle")
    curve = [point["reward"] for point in choice.record["learning_curve"]]
    assert sum(curve[-5:]) > sum(curve[:5]) + 0.25


def test_a_backdoor_in_the_task_head_cannot_be_pruned():
    """Wired into the head that accuracy needs, it stays with every strategy that keeps the bound."""
    from oracle import copy_trigger_into_task

    anatomy = wired("idle")
    copy_trigger_into_task(anatomy)
    assert accuracy(anatomy) == 1
    assert lfr(anatomy, anatomy.layout.mask([BACKDOOR])) == 1
    for name in ("gradient", "variance", "layerwise", "ensemble", "reinforce", "bayesian"):
        choice = STRATEGIES[name]().choose(view(anatomy))
        assert choice.mask.flat[TASK]
        assert lfr(anatomy, choice.mask) == 1
