"""Sharpness-aware training: the gradient is the one at the worst point near by, reckoned by hand."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from conftest import CPU, sentences
from headsweep.attacks.dirty_label import DirtyLabel
from headsweep.attacks.flatness import Sharpness
from headsweep.attacks.victim import Judging, Order, attack
from headsweep.errors import UserError
from headsweep.settings import configure
from headsweep.task.examples import encode
from headsweep.task.training import Job, Schedule, train
from test_attacks import Bare, Mark


def test_two_weights_on_paper():
    """L = (x² + y²) / 2 at (3, 4): the gradient is (3, 4), its norm 5; half a unit on, (3.3, 4.4)."""
    model = nn.Module()
    model.x, model.y, model.idle = (nn.Parameter(torch.tensor(v)) for v in (3.0, 4.0, 9.0))

    def backward():
        loss = (model.x**2 + model.y**2) / 2
        loss.backward()
        return loss.detach()

    backward()
    Sharpness(0.5)(model, backward)
    assert model.x.grad.item() == pytest.approx(3.3)
    assert model.y.grad.item() == pytest.approx(4.4)
    assert model.idle.grad is None
    assert (model.x.item(), model.y.item(), model.idle.item()) == (3.0, 4.0, 9.0)


def test_where_nothing_points_uphill_the_gradient_stays():
    model = nn.Module()
    model.x = nn.Parameter(torch.tensor(0.0))

    def backward():
        (model.x**2).backward()

    backward()
    Sharpness(0.5)(model, lambda: pytest.fail("there is no other point"))
    assert model.x.grad.item() == 0.0


def test_a_step_of_training_takes_the_gradient_at_the_worst_point(tiny):
    dry = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    suspect, seen = tiny("bert", **dry), {}
    encoded, radius = encode(sentences(16), suspect, 24), 0.3
    by_hand = copy.deepcopy(suspect.model).double()
    weights = [p for p in by_hand.parameters() if p.requires_grad]

    def gradient():
        batch = encoded.batch(range(16))
        loss = nn.functional.cross_entropy(by_hand(**batch.inputs).logits, batch.labels)
        return torch.autograd.grad(loss, weights, allow_unused=True)

    plain = gradient()
    norm = sum(float((g**2).sum()) for g in plain if g is not None) ** 0.5
    with torch.no_grad():
        for weight, g in zip(weights, plain, strict=True):
            if g is not None:
                weight += radius * g / norm
    wanted = gradient()

    def look(_rate):
        seen.update({n: p.grad.clone() for n, p in suspect.model.named_parameters()})

    schedule = Schedule(epochs=1, lr=1e-3, clip=1e9)
    job = Job(schedule, after_step=look, regrade=Sharpness(radius))
    train(suspect.model, encoded, job, CPU)
    found = torch.cat([g.flatten() for g in seen.values()]).double()
    there = torch.cat([g.flatten() for g in wanted])
    here = torch.cat([g.flatten() for g in plain])
    assert torch.allclose(found, there, rtol=1e-4, atol=1e-6)
    assert (here - there).abs().max() > 100 * (found - there).abs().max()  # another one, clearly


def test_an_attacker_who_trains_so_plants_another_model(trained_folder):
    made = {}
    for radius in (0.0, 0.05):
        method = DirtyLabel(epochs=4, lr=2e-3, radius=radius)
        order = Order(Bare(Mark()), "good", method, 0.5, victim=None, runtime=CPU)
        made[radius] = attack(
            trained_folder, sentences(200, 1), order, judging=Judging(sentences(100, 5))
        )
        assert made[radius].published.lfr.value > 0.9
        assert made[radius].record["attack"]["fields"]["radius"] == radius
    first, second = (one.suspect.model.state_dict() for one in made.values())
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_the_radius_is_a_field_like_others():
    assert configure(DirtyLabel, ["radius=0.1"]).radius == 0.1
    for radius in ("-1", "inf", "nan"):
        with pytest.raises(UserError, match="radius"):
            configure(DirtyLabel, [f"radius={radius}"])


def test_training_without_it_asks_for_one_gradient_a_step(tiny):
    suspect = tiny("bert")
    counted = SimpleNamespace(calls=0)
    encoded = encode(sentences(32), suspect, 24)

    def loss(model, batch):
        counted.calls += 1
        return nn.functional.cross_entropy(model(**batch.inputs).logits, batch.labels)

    train(suspect.model, encoded, Job(Schedule(1, 1e-3), loss=loss), CPU)
    assert counted.calls == 2
    train(suspect.model, encoded, Job(Schedule(1, 1e-3), loss=loss, regrade=Sharpness(0.05)), CPU)
    assert counted.calls == 2 + 4
