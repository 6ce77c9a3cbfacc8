"""Healing that follows the suspect: what it asks, its loss, and that labels stop mattering."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from conftest import CPU, sentences
from headsweep.candidates import CANDIDATES
from headsweep.distillation import TEMPERATURE, following, taught
from headsweep.errors import UserError
from headsweep.heads import remove
from headsweep.healing import FineTune
from headsweep.loading import load_suspect
from headsweep.material import Sources
from headsweep.pipeline import purify
from headsweep.plan import Plan
from headsweep.predict import encode, logits
from headsweep.probing import RuleProber
from headsweep.search import Choice
from headsweep.strategies.cycles import Cycles
from headsweep.strategies.gradient import Gradient
from headsweep.view import DefenderView

COUNT = 40


@pytest.fixture
def view(tiny):
    suspect = tiny("bert")
    train = encode(sentences(COUNT), suspect, 24)
    return DefenderView(suspect.anatomy, train, train, 0.0, 3, CPU)


def weights(view):
    return {n: t.clone() for n, t in view.anatomy.model.state_dict().items()}


def test_the_suspect_is_asked_about_every_training_text_in_its_order(view, monkeypatch):
    monkeypatch.setattr("headsweep.distillation.PART", 16)
    whole = logits(view.anatomy, view.train, view.runtime)
    assert torch.allclose(taught(view), whole, atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_is_hintons(view, weight):
    said = torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(0))
    rows = [3, COUNT + 3, 2 * COUNT + 7]  # of later copies of the texts, or probes of them
    batch = replace(view.train.batch([3, 3, 7]), index=torch.tensor(rows))
    found = torch.tensor([[0.3, -1.0], [2.0, 0.1], [0.0, 0.0]])
    told = float(following(replace(view, taught=said), weight)(found, batch))
    wanted = said[[3, 3, 7]].double()
    p, q = ((x.double() / TEMPERATURE).softmax(-1) for x in (wanted, found))
    apart = float((p * (p / q).log()).sum(-1).mean())
    plain = float(cross_entropy(found, batch.labels))
    assert told == pytest.approx((1 - weight) * plain + weight * TEMPERATURE**2 * apart, rel=1e-5)


def test_a_model_that_says_the_same_has_nothing_to_learn(view):
    said = torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(0))
    found = (said + 0.7).requires_grad_()  # the same probabilities
    loss = following(replace(view, taught=said), 1.0)(found, view.train.batch(range(COUNT)))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert float(found.grad.abs().max()) < 1e-6


def healed(tiny, distill, labels, attention=None):
    suspect = tiny("bert")
    train = encode(sentences(COUNT), suspect, 24)
    view = DefenderView(suspect.anatomy, train, train, 0.0, 3, CPU)
    view = replace(view, taught=taught(view), train=replace(train, labels=tuple(labels)))
    mask = suspect.anatomy.layout.mask([0, 1, 5])
    remove(suspect.anatomy, mask)
    FineTune(1, 1e-3, distill=distill, attention=attention).heal(view, Choice(mask))
    return weights(view)


@pytest.mark.parametrize("attention", [None, 0.15])
def test_at_a_weight_of_one_labels_do_not_matter(tiny, attention):
    right = sentences(COUNT).labels
    wrong = [1 - label for label in right]

    def same(distill):
        one, other = (healed(tiny, distill, labels, attention) for labels in (right, wrong))
        return all(torch.equal(one[name], other[name]) for name in one)

    assert same(1.0)
    assert not same(0.5)


@pytest.mark.parametrize(("weight", "agree"), [(1.0, 0.0), (0.0, 1.0)])
def test_healing_follows_the_suspect_or_the_labels(view, weight, agree):
    """A suspect that says the opposite of every label."""
    labels = torch.tensor(view.train.labels)
    said = torch.nn.functional.one_hot(1 - labels, 2) * 4.0
    FineTune(30, 1e-2, distill=weight).heal(
        replace(view, taught=said), Choice(view.layout.everything())
    )
    found = logits(view.anatomy, view.train, view.runtime).argmax(-1)
    assert float((found == labels).double().mean()) == pytest.approx(agree, abs=0.1)


def test_probes_are_to_be_answered_as_their_texts(view, tiny, monkeypatch):
    """What is trained on is texts and probes of theirs; the teacher is its text's in every row."""
    made = RuleProber(("casing",)).make(tiny("bert"), sentences(COUNT), CPU, view.progress)
    said = torch.arange(2.0 * COUNT).reshape(COUNT, 2) % 7
    view = replace(view, probes=made, taught=said)
    probe_of = {
        int(row): family.probes.ids[i]
        for family in made.families
        for i, row in enumerate(family.rows)
    }
    plain = following(view, 1.0)
    seen = []

    def spied(anyone, weight):
        assert (anyone.taught is said, weight) == (True, 1.0)

        def loss(found, batch):
            seen.append((batch, plain(said[batch.index % COUNT] * 1.0, batch)))
            return plain(found, batch)

        return loss

    monkeypatch.setattr("headsweep.healing.following", spied)
    FineTune(2, 1e-3, on="probes", distill=1.0).heal(view, Choice(view.layout.everything()))
    turned = 0
    for batch, apart in seen:
        assert float(apart) == pytest.approx(0, abs=1e-6)  # its own text's, row by row
        for row, ids, kept in zip(
            (batch.index % COUNT).tolist(),
            batch.inputs["input_ids"],
            batch.inputs["attention_mask"],
            strict=True,
        ):
            now = tuple(ids[kept.bool()].tolist())
            assert now in (view.train.ids[row], probe_of.get(row))
            turned += now != view.train.ids[row]
    assert turned > COUNT / 2  # two epochs, 40% of the texts


def test_texts_that_it_was_not_asked_about_count_by_their_labels(view, monkeypatch):
    monkeypatch.setattr("headsweep.distillation.MOST", 10)
    said = taught(view)
    assert int((~said.isnan().any(-1)).sum()) == 10
    asked, other = (torch.nonzero(said.isnan().any(-1) == nan)[0].item() for nan in (False, True))
    found = torch.tensor([[0.3, -1.0]])
    loss = following(replace(view, taught=said), 1.0)
    rows = {row: view.train.batch([row]) for row in (asked, other)}
    assert float(loss(found, rows[other])) == pytest.approx(
        float(cross_entropy(found, rows[other].labels))
    )
    assert float(loss(said[[asked]], rows[asked])) == pytest.approx(0, abs=1e-6)
    assert torch.equal(taught(view).isnan(), said.isnan())


def test_without_what_the_suspect_said_there_is_nothing_to_follow(view):
    for known in (None, torch.zeros(COUNT - 1, 2)):  # of other texts
        with pytest.raises(UserError, match="what the suspect says"):
            FineTune(1, distill=0.5).heal(
                replace(view, taught=known), Choice(view.layout.everything())
            )
    assert FineTune(0, distill=0.5).heal(view, Choice(view.layout.everything()))["losses"] == []


def test_cycles_ask_by_themselves_before_they_prune(view, monkeypatch):
    import headsweep.strategies.cycles as module

    seen = []

    def asked(view):
        seen.append(weights(view))
        return taught(view)

    monkeypatch.setattr(module, "taught", asked)
    before = weights(view)
    own = Cycles(step=2, most=2, epochs=0.5, distill=0.5)
    choice = own.choose(view)
    assert Cycles().distill == 0
    assert len(seen) == 1
    assert view.meter.examples_run > 0
    assert all(torch.equal(before[name], seen[0][name]) for name in before)
    known = own.choose(replace(view, taught=taught(view)))
    assert len(seen) == 1
    assert known.mask == choice.mask
    assert all(torch.equal(choice.weights[n], t) for n, t in known.weights.items())
    plain = replace(own, distill=0.0).choose(view)
    assert len(seen) == 1
    assert any(not torch.equal(choice.weights[n], t) for n, t in plain.weights.items())


def test_the_last_healing_is_on_labels_unless_it_is_asked_to_follow():
    assert FineTune().after(Cycles(distill=0.3)).distill == 0
    assert FineTune(distill=0.2).after(Cycles()).distill == 0.2
    assert FineTune(distill=0.2).after(Gradient()).distill == 0.2


class Recording(FineTune):
    """Keeps what the suspect is known to have said."""

    def heal(self, view, choice):
        SAID.append(view.taught)
        return super().heal(view, choice)


SAID: list[torch.Tensor | None] = []


@pytest.mark.parametrize("given", [False, True])
def test_the_teacher_of_a_purification_is_the_suspect_before_pruning(trained_folder, given):
    suspect = load_suspect(trained_folder, CPU)
    mask = suspect.anatomy.layout.mask([0, 3]) if given else None
    SAID.clear()
    plan = Plan(0.9, heal=Recording(1, distill=0.5), runtime=CPU, mask=mask)
    done = purify(trained_folder, Sources(sentences(80), sentences(40, 1)), Gradient(), plan)
    assert done.mask.pruned
    train = encode(sentences(80), suspect, CPU.max_length)
    assert torch.allclose(SAID[0], logits(suspect.anatomy, train, CPU), atol=1e-5)


def test_the_suspect_is_asked_only_where_that_is_used(trained_folder):
    SAID.clear()
    for heal in (Recording(0, distill=0.5), Recording(1)):
        plan = Plan(0.9, heal=heal, runtime=CPU)
        purify(trained_folder, Sources(sentences(80), sentences(40, 1)), Gradient(), plan)
    assert SAID == [None, None]


def test_auto_tries_healings_on_labels_whatever_the_plan_says():
    for candidate in CANDIDATES:
        assert candidate.heal(FineTune(distill=0.5)).distill == 0


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_is_a_fraction(weight):
    with pytest.raises(UserError, match="give 0 to 1"):
        FineTune(distill=weight)
    with pytest.raises(UserError, match="give 0 to 1"):
        Cycles(distill=weight)
