from __future__ import annotations

import pytest
import torch
from torch import nn

from conftest import CPU, Way, cleanse, sentences
from headsweep import Bound, Method, NothingPruned, Plan, Sources, purify
from headsweep.errors import UserError
from headsweep.export.verify import verify
from headsweep.heal.entropy import EntropyFirst, _negative_entropy
from headsweep.measure.accuracy import logits
from headsweep.model.loading import load_suspect
from headsweep.model.mask import Units
from headsweep.model.removal import already_pruned, left_of
from headsweep.prune.choice import Choice
from headsweep.prune.strategies.random import Random
from headsweep.prune.view import DefenderView
from headsweep.purification.baselines import DEFENSES
from headsweep.purification.material import Material
from headsweep.settings import configure
from headsweep.task.examples import encode
from test_healing import pruned_view

SMALL = {
    "ft": ["epochs=1"],
    "fth": ["epochs=1"],
    "meft": ["epochs=1"],
    "pure": ["epochs=1", "step=1"],
    "fine-pruning": ["epochs=1"],
    "crow": ["epochs=1"],
    "random": ["epochs=1", "count=3"],
}


def data():
    return Sources(sentences(60), sentences(40, seed=5))


def test_the_table_goes_by_name():
    assert all(name == method.name for name, method in DEFENSES.items())


@pytest.mark.parametrize("name", DEFENSES)
def test_every_baseline_runs_saves_and_verifies(name, trained_folder, tmp_path):
    method = configure(DEFENSES[name], SMALL.get(name, [])).method().within(Bound(max_drop=0.4))
    done = purify(trained_folder, data(), method, Plan(runtime=CPU))
    done.save(tmp_path / "out")
    assert [c for c in verify(tmp_path / "out") if not c.passed] == []
    same = torch.equal(
        done.model.classifier.weight, load_suspect(trained_folder, CPU).model.classifier.weight
    )
    assert same == (name == "nothing")
    assert bool(done.mask.pruned) == (name in ("pure", "fine-pruning", "random"))


def test_fine_pruning_takes_single_neurons_and_no_head(trained_folder):
    method = configure(DEFENSES["fine-pruning"], ["epochs=0"]).method().within(Bound(0.4))
    done = purify(trained_folder, data(), method, Plan(runtime=CPU))
    assert done.mask.heads == ()
    assert [len(row) for row in done.mask.ffn] == [64, 64]
    assert done.mask.pruned
    anatomy = done.suspect.anatomy
    assert already_pruned(anatomy) == done.mask


def test_entropy_is_maximised_by_its_loss(tiny):
    suspect = tiny()
    batch = encode(sentences(8), suspect, 24).batch(range(8))
    with torch.no_grad():
        found = _negative_entropy(suspect.model, batch)
        p = suspect.model(**batch.inputs).logits.softmax(-1)
    assert torch.allclose(found, (p * p.log()).sum(-1).mean(), atol=1e-6)
    assert found > -torch.log(torch.tensor(2.0)) - 1e-6


def test_pure_penalty_by_hand(tiny, monkeypatch):
    """Its loss on a pruned model against the formula written out in loops over heads that stay."""
    import headsweep.heal.fine_tune as module
    from headsweep.model.removal import remove
    from headsweep.prune.choice import Choice

    suspect = tiny("bert", num_hidden_layers=3)
    mask = suspect.anatomy.layout.mask([0, 1, 2, 9])
    remove(suspect.anatomy, mask)
    train = encode(sentences(8), suspect, 24)
    view = DefenderView(suspect.anatomy, train, train, 0.0, 0, CPU)
    caught = {}
    batch = train.batch(range(8))

    def look(model, data, job, *_):
        with torch.no_grad():  # heads are cut out of the model, and attention is read, only here
            caught["found"] = job.loss(model.eval(), batch)
        return []

    monkeypatch.setattr(module, "train", look)
    DEFENSES["pure"]().method().healing.heal(view, Choice(mask))
    found = caught["found"]
    suspect.model.set_attn_implementation("eager")
    with torch.no_grad():
        out = suspect.model(**batch.inputs, output_attentions=True)
    real = batch.inputs["attention_mask"].bool()
    inverse = []
    for layer, attention in enumerate(out.attentions):
        kept = [h for h in range(4) if mask.heads[layer][h]]
        variances = [
            float(attention[b, h, 0][real[b]].var(correction=0)) for b in range(8) for h in kept
        ]
        inverse.append(len(variances) / sum(variances))
    share = [i / sum(inverse) for i in inverse]
    weights = [(c - min(share)) / (max(share) - min(share)) for c in share]
    expected = nn.functional.cross_entropy(out.logits, batch.labels)
    for layer, attention in enumerate(out.attentions):
        for head in range(4):
            if mask.heads[layer][head]:
                total = float(attention[:, head, 0].double().square().sum())
                expected = expected + 0.15 * weights[layer] * total**0.5
    assert torch.allclose(found, expected, atol=1e-4)


def test_meft_maximises_entropy_before_it_fine_tunes(trained_folder):
    """Without the second phase predictions must be less certain than the suspect's."""

    def certainty(healing):
        done = cleanse(trained_folder, data(), None, Way(heal=healing, runtime=CPU, bounded=False))
        encoded = encode(sentences(40, seed=8), done.suspect, 24)
        return float(logits(done.suspect.anatomy, encoded, CPU).softmax(-1).amax(-1).mean())

    from headsweep import FineTune

    before = certainty(FineTune(0))
    assert certainty(EntropyFirst(entropy_epochs=8, epochs=0, lr=3e-3)) < before - 0.1


def test_maximising_entropy_leaves_pruned_heads_at_zero(tiny):
    """Query heads of a group: the others' keys and values go on being trained."""
    view, mask = pruned_view(tiny, "llama", (0, 3), units=Units(queries=True))
    EntropyFirst(entropy_epochs=1, epochs=0, lr=1e-3).heal(view, Choice(mask))
    assert not left_of(view.anatomy, mask)


def test_controls_are_not_held_to_the_bound(trained_folder):
    """Random heads at a count that ruins accuracy: measured, verified as written, not failed."""
    from headsweep import FineTune

    weak = Way(max_drop=0.0, heal=FineTune(2, 0.3), runtime=CPU)
    done = cleanse(trained_folder, data(), Random(count=6), weak)
    assert done.verified
    assert not any("validation accuracy" in check.what for check in done.checks)


def test_controls_out_of_range(trained_folder):
    method = configure(DEFENSES["random"], ["count=99"]).method()
    with pytest.raises(UserError, match="count must be between 1 and 6"):
        purify(trained_folder, data(), method, Plan(runtime=CPU))
    with pytest.raises(UserError, match="share"):
        configure(DEFENSES["fine-pruning"], ["share=2"])


@pytest.mark.parametrize("count", [0, 7])
def test_too_many_heads_or_none_are_refused_before_anything_is_measured(
    trained_folder, monkeypatch, count
):
    """Every layer keeps one of its four heads. It was said once the model was measured."""
    monkeypatch.setattr(Material, "figures", lambda *_: pytest.fail("measured"))
    with pytest.raises(UserError, match=f"count must be between 1 and 6, not {count}"):
        purify(trained_folder, data(), Method(Random(count=count)), Plan(runtime=CPU))


def test_a_rejected_member_ends_the_released_ensemble(tiny):
    from headsweep.prune.strategies.as_released import EnsembleAsReleased

    suspect = tiny()
    encoded = encode(sentences(40), suspect, 24)
    view = DefenderView(suspect.anatomy, encoded, encoded, 1.0, 0, CPU)
    with pytest.raises(NothingPruned, match="misses min accuracy"):
        EnsembleAsReleased().choose(view)
