from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

from conftest import CPU, Way, cleanse, sentences
from headsweep.errors import UserError
from headsweep.export.card import model_card
from headsweep.export.model_folder import fingerprint
from headsweep.heal.fine_tune import Copies, FineTune
from headsweep.measure.accuracy import logits
from headsweep.measure.cutting import Cut, cut, cuts
from headsweep.model.anatomy import Anatomy, locate
from headsweep.model.loading import load_suspect
from headsweep.model.mask import HEADS, QUERIES, Units
from headsweep.model.removal import pieces, remove
from headsweep.prune.choice import Choice
from headsweep.prune.strategies.gradient import Gradient
from headsweep.prune.strategies.random import Random
from headsweep.prune.view import DefenderView
from headsweep.purification.material import Sources
from headsweep.task.examples import encode
from headsweep.task.training import DivergedError, mean_loss

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
OWN_NAMES = {"llama": {}, "gpt2": {f"{part}_pdrop": 0.0 for part in ("attn", "embd", "resid")}}
"""Of the families that name their dropout otherwise."""


def pruned_view(tiny, family="bert", gone=(0, 1, 2, 5), **changes):
    suspect = tiny(family, **changes)
    mask = suspect.anatomy.layout.mask(gone)
    remove(suspect.anatomy, mask)
    train = encode(sentences(64), suspect, 24)
    return DefenderView(suspect.anatomy, train, train, 0.0, 3, CPU), mask


@pytest.mark.parametrize(
    ("family", "gone", "units"),
    [
        ("bert", (0, 1, 2, 5), HEADS),
        ("llama", (0, 3), HEADS),
        ("llama", (0, 1), QUERIES),
        ("gpt2", (0, 1, 2, 5), Units(ffn=True)),
        ("mpnet", (0, 1, 2, 5), HEADS),
        ("deberta", (0, 1, 2, 5), HEADS),
        ("deberta-v2", (0, 1, 2, 5), HEADS),
    ],
)
def test_the_cut_model_has_the_gradients_of_the_masked_one(tiny, family, gone, units):
    """One step, dropout off: every weight's gradient, zeros where heads went, and the norm."""
    view, mask = pruned_view(tiny, family, gone, units=units)
    model, batch = view.anatomy.model, view.train.batch(range(16))
    names = dict(model.named_parameters())
    mean_loss(model, batch).backward()
    whole = {name: p.grad.clone() for name, p in names.items() if p.grad is not None}
    made = cuts(view.anatomy, mask)
    places = {(id(one.module), one.name): one for one in made if isinstance(one, Cut)}
    of = {
        f"{path}.{name}" if path else name: places.get((id(module), name))
        for path, module in model.named_modules()
        for name in module._parameters
    }
    with cut(made):
        model.zero_grad(set_to_none=True)
        mean_loss(model, batch).backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norms = [torch.stack([g.norm() for g in found.values()]).norm() for found in (whole, grads)]
    assert torch.allclose(*norms, rtol=1e-5)
    smaller = 0
    for name, grad in whole.items():
        one = of[name]
        expanded = grads[name]
        if one is not None:
            smaller += 1
            expanded = torch.zeros_like(grad).index_copy_(one.axis, one.places, grads[name])
        assert torch.allclose(expanded, grad, atol=1e-6), name
    assert smaller == len(places) > 0


@pytest.mark.parametrize(
    ("family", "gone"),
    [
        ("bert", (0, 1, 2, 5)),
        ("llama", (0, 3)),
        ("gpt2", (0, 1, 2, 5)),
        ("mpnet", (0, 1, 2, 5)),
        ("deberta", (0, 1, 2, 5)),
        ("deberta-v2", (0, 1, 2, 5)),
    ],
)
def test_healing_on_the_cut_model_learns_the_same(tiny, family, gone):
    """Without dropout: the same losses to rounding, the same answers, pruned weights at zero.

    Llama: one of two key/value groups in each layer, with both its query heads.
    """
    found = {}
    for compact in (True, False):
        view, mask = pruned_view(tiny, family, gone, **OWN_NAMES.get(family, NO_DROPOUT))
        record = FineTune(4, 1e-3, compact=compact).heal(view, Choice(mask))
        assert record["compact"] is compact
        assert not any(piece.any() for piece in pieces(view.anatomy, mask))
        assert locate(view.anatomy.model).layout == view.anatomy.layout  # whole again
        found[compact] = torch.tensor(record["losses"]), logits(view.anatomy, view.train, CPU)
    for one, other in zip(*found.values(), strict=True):
        assert torch.allclose(one, other, atol=2e-3)
    assert found[True][0][0] > found[True][0][-1]


@pytest.mark.parametrize(
    ("family", "gone"), [("bloom", (0, 5)), ("big_bird", (0, 5)), ("llama", (0, 2))]
)
def test_what_cannot_be_cut_heals_as_ever(tiny, family, gone):
    """A bias that goes by all heads, heads counted by the model, half of a key/value group."""
    view, mask = pruned_view(tiny, family, gone, units=QUERIES)
    record = FineTune(1, 1e-3).heal(view, Choice(mask))
    assert record["compact"] is False
    assert not any(piece.any() for piece in pieces(view.anatomy, mask))


def test_an_interrupted_healing_leaves_a_whole_model(tiny, monkeypatch):
    view, mask = pruned_view(tiny)
    shapes = {n: p.shape for n, p in view.anatomy.model.named_parameters()}

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("headsweep.task.training._after", stop)
    with pytest.raises(KeyboardInterrupt):
        FineTune(1, 1e-3).heal(view, Choice(mask))
    assert {n: p.shape for n, p in view.anatomy.model.named_parameters()} == shapes
    assert not any(piece.any() for piece in pieces(view.anatomy, mask))


def test_same_seed_same_bytes(tiny):
    def once(seed):
        view, mask = pruned_view(tiny)
        FineTune(1, 1e-3).heal(replace(view, seed=seed), Choice(mask))
        return b"".join(p.detach().numpy().tobytes() for p in view.anatomy.model.parameters())

    assert once(3) == once(3) != once(4)


def test_the_attention_penalty_says_what_it_cannot_do(tiny):
    with pytest.raises(UserError, match="0 or more"):
        FineTune(attention=-1)


@pytest.mark.parametrize("units", [Units(ffn=True), Units(heads=False, ffn=True)])
def test_the_attention_penalty_is_of_all_heads_whatever_the_units(tiny, units):
    suspect = tiny("bert", units=units)
    train = encode(sentences(20), suspect, 24)
    view = DefenderView(suspect.anatomy, train, train, 0.0, 0, CPU)
    record = FineTune(1, attention=0.1).heal(view, Choice(view.layout.everything()))
    assert len(record["layer_weights"]) == 2


def test_a_healing_that_loses_the_bound_is_tried_cooler(trained_folder):
    data = Sources(sentences(40), sentences(40, seed=5))
    hot = Way(max_drop=0.3, heal=FineTune(1, 0.5, halvings=12), runtime=CPU)
    done = cleanse(trained_folder, data, Gradient(step=2), hot)
    tried = done.manifest["heal"]["tried"]
    bound = done.manifest["bound"]["min_accuracy"]
    assert len(tried) > 1
    assert [one["lr"] for one in tried] == [0.5 / 2**k for k in range(len(tried))]
    assert all(one["accuracy"] < bound for one in tried[:-1])
    assert tried[-1]["accuracy"] >= bound
    assert done.manifest["after"]["validation"]["accuracy"] == tried[-1]["accuracy"]
    assert done.manifest["heal"]["lr"] == tried[-1]["lr"]
    assert len(done.manifest["notes"]) >= len(tried) - 1
    assert f"begun anew for accuracy, kept: lr {tried[-1]['lr']:g}" in model_card(done.manifest)
    cool = replace(hot, heal=FineTune(1, tried[-1]["lr"]))
    again = cleanse(trained_folder, data, Gradient(step=2), cool)
    assert fingerprint(again.model).equal(fingerprint(done.model))  # as if begun there
    assert FineTune(0, halvings=3).cooler() is None
    with pytest.raises(UserError, match="halvings"):
        FineTune(halvings=-1)


@dataclass(frozen=True)
class Shift:
    """A healing that adds to the first label's bias, first this, then what comes next."""

    name: ClassVar[str] = "shift"
    trains: ClassVar[bool] = True
    needs_probes: ClassVar[bool] = False
    frozen: ClassVar[bool] = False
    copies: ClassVar[Copies] = Copies()
    by: tuple[float, ...]

    @property
    def tries(self) -> int:
        return len(self.by) - 1

    def moves(self, _: Anatomy) -> None:
        return None

    def work(self, examples: int) -> float:
        return examples

    def fitted(self, _: Anatomy) -> tuple[Shift, list[str]]:
        return self, []

    def heal(self, view: DefenderView, choice: Choice, need: int = 0) -> dict[str, Any]:
        with torch.no_grad():
            view.anatomy.model.classifier.bias[0] += self.by[0]
        return {"lr": self.by[0]}

    def cooler(self) -> Shift | None:
        return Shift(self.by[1:]) if self.by[1:] else None


def half_wrong(folder, validation):
    """Return a shift that gets half of the examples with label 1 wrong, and no other."""
    model = load_suspect(folder, CPU)
    said = logits(model.anatomy, encode(validation, model, 24), CPU)
    over = (said[:, 1] - said[:, 0])[torch.tensor(validation.labels) == 1]
    return float(over.median()) + 1e-3


def test_where_no_healing_holds_the_bound_the_best_of_them_stays(trained_folder):
    data = Sources(sentences(40), sentences(40, seed=5))
    plan = Way(max_drop=0.3, runtime=CPU)
    half = half_wrong(trained_folder, data.validation)
    alone = [
        cleanse(trained_folder, data, None, replace(plan, heal=Shift((by,)), bounded=False))
        for by in (90, half)
    ]
    worse, better = (one.manifest["after"]["validation"]["accuracy"] for one in alone)
    assert worse < better < alone[0].manifest["before"]["validation"]["accuracy"]
    narrow = replace(plan, min_accuracy=better + 0.01, heal=Shift((90, half, 60)))
    done = cleanse(trained_folder, data, None, narrow)
    assert [one["lr"] for one in done.manifest["heal"]["tried"]] == [90, half, 60]
    assert not done.verified
    assert done.manifest["heal"]["lr"] == half
    assert done.manifest["after"] == alone[1].manifest["after"]
    assert fingerprint(done.model).equal(fingerprint(alone[1].model))
    assert any("the best of them" in note for note in done.manifest["notes"])
    assert f"kept: lr {half:g}" in model_card(done.manifest)


def test_the_best_is_kept_where_the_last_healing_comes_to_nothing(trained_folder, monkeypatch):
    """Cooler is no way out of what pruning left at chance: a hotter one was better."""
    data = Sources(sentences(40), sentences(40, seed=5))
    plan = Way(max_drop=0.3, runtime=CPU)
    half = half_wrong(trained_folder, data.validation)
    alone = cleanse(trained_folder, data, None, replace(plan, heal=Shift((half,)), bounded=False))
    heal = Shift.heal

    def broken(self, view, choice, floor=0):
        if self.by[0] == 60:
            raise DivergedError("healing came to nothing")
        return heal(self, view, choice, floor)

    monkeypatch.setattr(Shift, "heal", broken)
    narrow = replace(plan, min_accuracy=1.0, heal=Shift((half, 60)))
    done = cleanse(trained_folder, data, None, narrow)
    assert not done.verified
    assert [one["lr"] for one in done.manifest["heal"]["tried"]] == [half]
    assert done.manifest["after"] == alone.manifest["after"]
    assert fingerprint(done.model).equal(fingerprint(alone.model))
    assert any("came to nothing" in note for note in done.manifest["notes"])
    assert any("the best of them" in note for note in done.manifest["notes"])
    with pytest.raises(DivergedError, match="came to nothing"):
        cleanse(trained_folder, data, None, replace(narrow, heal=Shift((60, 60))))


def test_a_healing_that_ends_at_chance_says_what_to_try(trained_folder, tmp_path):
    data = Sources(sentences(40), sentences(40, seed=5))
    guessing = Way(max_drop=0.3, runtime=CPU, heal=Shift((90.0, 80.0)))
    with pytest.raises(DivergedError, match=r"no better than guessing.*\n.*lower --heal lr"):
        cleanse(trained_folder, data, None, guessing)
    low = replace(guessing, max_drop=0.6)  # a bound below chance lets it pass
    assert cleanse(trained_folder, data, None, low).verified


def test_a_control_is_healed_within_the_bound_as_what_it_is_compared_with(trained_folder):
    """Its heads are drawn whatever accuracy does; hotter healing would make it look better."""
    data = Sources(sentences(40), sentences(40, seed=5))
    way = Way(max_drop=0.1, heal=Shift((90, 0)), runtime=CPU)
    done = cleanse(trained_folder, data, Random(count=3), way)
    assert [one["lr"] for one in done.manifest["heal"]["tried"]] == [90, 0]
    assert done.manifest["bound"]["binds"]
    assert done.verified
    soup = FineTune(1, 1e-3, halvings=1, members=2, beyond=3.0)
    done = cleanse(trained_folder, data, Random(count=3), replace(way, min_accuracy=1.0, heal=soup))
    places = done.manifest["heal"]["places"]
    reached = done.manifest["heal"]["beyond"]
    assert all(one["accuracy"] < 1 for one in places if one["beyond"] > reached)
    once = replace(way, heal=FineTune(1, 0.5))  # nothing to cool: as papers heal
    free = cleanse(trained_folder, data, Random(count=3), once)
    assert free.manifest["after"]["validation"]["accuracy"] < 0.7
    assert not free.manifest["bound"]["binds"]
    with pytest.raises(UserError, match="fresh classifier"):
        cleanse(trained_folder, data, Gradient(), replace(way, start="encoder"))


def test_what_pruning_left_below_the_bound_may_be_healed_cooler_too(trained_folder):
    class Costly(Gradient):
        """Takes accuracy with the heads, as pruning for healing to bring back does."""

        def choose(self, view):
            Shift((90,)).heal(view, choice := super().choose(view))
            return choice

    data = Sources(sentences(40), sentences(40, seed=5))
    below = Way(max_drop=0.0, prune_drop=0.6, heal=Shift((0, -90)), runtime=CPU)
    done = cleanse(trained_folder, data, Costly(step=2), below)
    found = done.manifest
    assert found["pruned"]["validation"]["accuracy"] < found["bound"]["min_accuracy"]
    assert [one["lr"] for one in found["heal"]["tried"]] == [0, -90]
    assert done.verified


def test_healing_alone_is_held_to_the_bound_unless_it_is_a_baseline(trained_folder):
    data = Sources(sentences(40), sentences(40, seed=5))
    plan = Way(max_drop=0.1, heal=FineTune(1, 0.5), runtime=CPU)
    with pytest.raises(DivergedError, match="no better than guessing"):
        cleanse(trained_folder, data, None, plan)
    free = cleanse(trained_folder, data, None, replace(plan, bounded=False))
    assert not free.manifest["bound"]["binds"]
    assert free.verified
    strict = replace(plan, min_accuracy=1.0, bounded=False)
    wrong = Sources(sentences(40), data.validation.take(range(39)))
    assert cleanse(trained_folder, wrong, None, strict).manifest["bound"]["min_accuracy"] == 0
    with pytest.raises(UserError, match="prune_drop"):
        cleanse(trained_folder, data, None, replace(plan, prune_drop=0.2))


@pytest.mark.parametrize(
    ("drop", "lost", "times"),
    [(0.02, 3, 1), (0.02, 4, 1), (0.02, 5, 2), (0.2, 8, 1), (0.2, 9, 2)],
)
def test_healing_begins_anew_only_for_a_miss_that_chance_does_not_do(
    trained_folder, drop, lost, times
):
    """Of 40 examples 0.02 allows none: 5 must be missing. 0.2 allows 8: the ninth is enough."""
    data = Sources(sentences(40), sentences(40, seed=5))
    model = load_suspect(trained_folder, CPU)
    said = logits(model.anatomy, encode(data.validation, model, 24), CPU)
    right = said.argmax(-1) == torch.tensor(data.validation.labels)
    over = (said[:, 1] - said[:, 0])[right & (said.argmax(-1) == 1)].sort().values
    assert len(over) == 20  # all that are good, and every one of the others is right
    assert right.all()
    by = float(over[lost - 1] + over[lost]) / 2
    plan = Way(max_drop=drop, heal=Shift((by, by)), runtime=CPU)
    found = cleanse(trained_folder, data, None, plan).manifest
    assert 40 - found["after"]["validation"]["right"] == lost
    missed = lost > 40 * drop
    assert len(found["heal"]["tried"]) == (times if missed else 1)
    assert any("not begun anew" in note for note in found["notes"]) == (missed and times == 1)
    assert any("too few to tell a loss from chance" in n for n in found["notes"]) == (drop < 0.1)
