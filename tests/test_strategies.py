from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch

import headsweep.prune.strategies as package
from conftest import CPU, Way, cleanse, sentences
from headsweep import Bound, FineTune, Gradient, Method, Plan, Sources, purify
from headsweep.errors import NothingPruned, UserError
from headsweep.model.attention_rows import attention_rows
from headsweep.model.borrowing import attentions, eager
from headsweep.model.loading import load_suspect
from headsweep.model.mask import HeadMask, Layout, Row, Units
from headsweep.model.removal import remove
from headsweep.prune.choice import Choice
from headsweep.prune.importance import _variance, attention_variance, dormancy
from headsweep.prune.search import bisect
from headsweep.prune.strategies import STRATEGIES
from headsweep.prune.strategies.bayesian import Bayesian, _relative_variance, dropping
from headsweep.prune.strategies.layerwise import by_quota
from headsweep.prune.strategies.reinforce import Reinforce
from headsweep.prune.strategies.sparsify import Sparsify, groups
from headsweep.prune.view import DefenderView
from headsweep.purification.interrupted import Given
from headsweep.seeding import derive, fence
from headsweep.settings import configure
from headsweep.task.examples import encode
from headsweep.task.probes import Family, Probes
from headsweep.task.training import mean_loss
from headsweep.texts.encoded import Batch
from headsweep.texts.split import Split
from headsweep.texts.task import CLASSIFICATION


def view_of(suspect, seed=0, bound=0.0):
    train = encode(sentences(48), suspect, 24)
    validation = encode(sentences(32, seed=7), suspect, 24)
    made = [probes_of(suspect, split) for split in (sentences(48), sentences(32, seed=7))]
    return DefenderView(
        suspect.anatomy,
        train,
        validation,
        bound,
        seed,
        CPU,
        probes=made[0],
        probe_validation=made[1],
    )


def probes_of(suspect, split):
    """Probes of one family: three words before every text."""
    changed = Split(tuple(f"so it was {text}" for text in split.texts), split.labels)
    clean, probes = (encode(each, suspect, 24) for each in (split, changed))
    return Probes((Family("words", tuple(range(len(split))), clean, probes),))


def test_folder_and_table_agree():
    folder = {p.stem for p in Path(package.__file__).parent.glob("*.py")} - {"__init__"}
    assert {method.__module__.rsplit(".", 1)[1] for method in STRATEGIES.values()} == folder
    assert all(name == method.name for name, method in STRATEGIES.items())


def settings_for(name, family):
    """Small settings; a grouped-query decoder has no dropout of its own."""
    chosen = {
        "bayesian": ["passes=3"] + (["rate=0.1"] if family == "llama" else []),
        "reinforce": ["updates=8", "samples=3", "batch=16"],
        "sparsify": ["lr=1e-3"],
        "ensemble": ["per_layer=1"],
        "ensemble-as-released": ["per_layer=1"],
        "reinforce-as-released": ["step=2"],
    }
    return chosen.get(name, [])


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_contract(tiny, name, family):
    """Frozen; deterministic; keeps the bound; empties no layer; leaves the model as it was."""
    suspect = tiny(family)
    before = {k: v.clone() for k, v in suspect.model.state_dict().items()}
    backend = suspect.model.config._attn_implementation
    own = view_of(suspect).accuracy(suspect.anatomy.layout.everything())
    bound = own - (0.5 if name.endswith("as-released") else 0.1)
    strategy = configure(STRATEGIES[name], settings_for(name, family))
    with pytest.raises(FrozenInstanceError):
        strategy.name = "other"
    view = view_of(suspect, 3, bound)
    choice = strategy.choose(view)
    assert choice.mask == strategy.choose(view_of(suspect, 3, bound)).mask
    assert choice.mask.fits(view.layout)
    assert not choice.mask.empties_a_row
    if choice.bounded:
        assert view.accuracy(choice.mask) >= bound - 1e-9
    after = suspect.model.state_dict()
    assert all((after[k] == before[k]).all() for k in before)
    assert not suspect.model.training
    assert not any(site.gate._forward_pre_hooks for site in suspect.anatomy.sites)
    assert suspect.model.config._attn_implementation == backend
    json.dumps([choice.record, [step.to_json(view.layout) for step in choice.steps]])


@pytest.mark.parametrize(
    "name", ["gradient", "probe-guided", "sparsify", "ensemble", "reinforce", "bayesian", "random"]
)
def test_ffn_groups_are_units_like_heads(tiny, name):
    suspect = tiny("bert", units=Units(ffn=True))
    view = view_of(suspect, 3, 0.2)
    choice = configure(STRATEGIES[name], settings_for(name, "bert")).choose(view)
    assert len(choice.mask.ffn) == 2
    assert choice.mask.fits(view.layout)
    assert not choice.mask.empties_a_row


@pytest.mark.parametrize("name", ["layerwise", "variance"])
def test_attention_scores_refuse_ffn_groups(tiny, name):
    with pytest.raises(UserError, match="ranks heads only"):
        STRATEGIES[name]().choose(view_of(tiny("bert", units=Units(ffn=True))))


def test_layerwise_takes_its_quota_of_the_lowest():
    """12 heads in 3 layers, shares 0.2, 0.5, 0.8: 2, 6 and 9 heads (int of 2.4, 6, 9.6)."""
    layout = Layout(tuple(Row("head", i, 12, 1, 4) for i in range(3)))
    scores = torch.arange(36).flip(0).float()
    expected = [11, 10, *range(23, 17, -1), *range(35, 26, -1)]
    assert by_quota(scores, layout, 0.2, 0.8) == expected


def test_layerwise_gives_back_the_most_varying_first(tiny, monkeypatch):
    """Backing off by hand: with scaled scores known, the highest of the quota comes back first."""
    import headsweep.prune.strategies.layerwise as module

    suspect = tiny("bert")
    view = view_of(suspect, 0, 1.01)  # nothing holds: every head of the quota comes back in turn
    scores = torch.tensor([3.0, 1.0, 2.0, 4.0, 5.0, 6.0, 8.0, 7.0])
    monkeypatch.setattr(module, "attention_variance", lambda *_: scores)
    choice = module.Layerwise(first=0.5, last=0.75).choose(view)
    # rows (3 1 2 4) and (5 6 8 7): quota 1, 2 of the first, 4, 5, 7 of the second;
    # scaled by norms 5.48 and 13.19: .18 .37 | .38 .45 .53, the last of them back first
    assert [step.units for step in choice.steps[1:]] == [(7,), (5,), (4,), (2,)]


def test_variance_by_hand_leaves_padding_out():
    """Attention (0.5, 0.3, 0.2) of three real tokens and a padded one."""
    row = torch.tensor([[[0.5, 0.3, 0.2, 0.0]]])
    batch = Batch(
        torch.tensor([0]),
        {"attention_mask": torch.tensor([[1, 1, 1, 0]])},
        torch.tensor([0]),
        CLASSIFICATION,
    )
    real = torch.tensor([0.5, 0.3, 0.2]).var(correction=0)
    assert torch.allclose(_variance(row, batch, None), real)
    padded = torch.tensor([0.5, 0.3, 0.2] + [0.0] * 5).var(correction=0)
    assert torch.allclose(_variance(row, batch, 8), padded)


def test_a_decoder_is_read_at_its_last_real_token(tiny):
    for family, encoder in (("bert", True), ("llama", False)):
        suspect = tiny(family)
        batch = view_of(suspect).train.batch([0, 5])
        with torch.no_grad(), eager(suspect.anatomy):
            found = attentions(suspect.anatomy, batch.inputs).attentions
        with torch.no_grad(), attention_rows(suspect.anatomy) as read:
            _, rows = read(batch)
        length = int(batch.inputs["attention_mask"][0].sum())
        place = 0 if encoder else length - 1
        assert torch.allclose(rows[1][0], found[1][0, :, place], atol=1e-6)


def test_dropout_passes_differ_and_the_model_is_back_in_eval(tiny):
    for family, rate in (("bert", None), ("llama", 0.2), ("bert", 0.2)):
        suspect = tiny(family)
        batch = view_of(suspect).train.batch([0, 1])
        with torch.no_grad(), dropping(suspect.anatomy, rate):
            first, second = (suspect.model(**batch.inputs).logits for _ in range(2))
        assert not torch.equal(first, second)
        with torch.no_grad():
            first, second = (suspect.model(**batch.inputs).logits for _ in range(2))
        assert torch.equal(first, second)
        assert not suspect.model.training


def test_bayesian_without_dropout_asks_for_a_rate(tiny):
    with pytest.raises(UserError, match=r"without dropout.*\n.*rate=0.1"):
        STRATEGIES["bayesian"]().choose(view_of(tiny("llama")))


def test_sparsify_groups_count_every_weight_once(tiny):
    """BERT: 4 groups a layer; Llama: 2, each a whole key/value group; sizes add up."""
    for family, count in (("bert", 8), ("llama", 4)):
        anatomy = tiny(family).anatomy
        found = groups(anatomy)
        assert len(found) == count
        sizes = sum(piece.numel() for group in found for piece in group)
        owned = {id(b.parameter): b.parameter.numel() for s in anatomy.sites for b in s.blocks}
        assert sizes == sum(owned.values())


def test_the_proximal_step_makes_groups_exactly_zero(tiny):
    settings = ["strength=1", "lr=1e-4", "epochs=2"]
    choice = configure(STRATEGIES["sparsify"], settings).choose(view_of(tiny("bert"), 0, 0.0))
    assert choice.record["exactly_zero"] > 0


def test_majority_and_union_are_counted_right(tiny):
    """The combination is recomputed here from the recorded survivors."""
    view = view_of(tiny("bert"), 5, 0.0)
    for combine in ("majority", "union"):
        choice = configure(
            STRATEGIES["ensemble"], ["per_layer=2", f"combine={combine}", "size=3"]
        ).choose(view)
        members = [HeadMask.from_json(form) for form in choice.record["survivors"]]
        assert [len(m.pruned) for m in members] == [2 * len(view.layout.rows)] * 3
        for unit in range(view.layout.units):
            votes = sum(unit in member.pruned for member in members)
            wanted = votes >= 2 if combine == "majority" else votes >= 1
            row = view.layout.slices[view.layout.row_of[unit]]
            full = all(
                sum(u in m.pruned for m in members) >= (2 if combine == "majority" else 1)
                for u in range(row.start, row.stop)
            )
            assert full or (unit in choice.mask.pruned) == wanted


@pytest.mark.parametrize(("heads", "fewer"), [(1, False), (2, True)])
def test_an_ensemble_without_survivors_says_what_can_be_done(tiny, heads, fewer):
    """It advised one head a layer where there was one, and no word of --min-accuracy."""
    view = view_of(tiny("bert"), 0, 1.0)
    with pytest.raises(NothingPruned) as caught:
        configure(STRATEGIES["ensemble"], [f"per_layer={heads}", "size=2"]).choose(view)
    told = str(caught.value)
    assert ("--set per_layer=1" in told) == fewer
    assert "--set size=8), or raise --max-drop (or lower --min-accuracy)" in told


def test_a_random_control_prunes_exactly_its_count(tiny):
    view = view_of(tiny("bert"))
    assert len(configure(STRATEGIES["random"], ["count=5"]).choose(view).mask.pruned) == 5
    for count, fix in (
        (7, "every layer keeps one"),
        (0, "--strategy none (of defend: --with nothing) prunes none"),
    ):
        with pytest.raises(UserError, match="between 1 and 6") as caught:
            configure(STRATEGIES["random"], [f"count={count}"]).choose(view)
        assert caught.value.fix == fix


def test_gradient_as_released_goes_by_layer_and_index(tiny):
    choice = STRATEGIES["gradient-as-released"](step=1).choose(view_of(tiny("bert")))
    pruned = [step.units[0] for step in choice.steps if step.held]
    assert pruned == [0, 1, 2, 4, 5, 6][: len(pruned)]
    assert len(pruned) >= 1


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("layerwise", "last=1.5"),
        ("bayesian", "rate=0"),
        ("bayesian", "passes=1"),
        ("ensemble", "size=0"),
        ("reinforce", "samples=1"),
        ("sparsify", "strength=-1"),
        ("sparsify", "strength=inf"),
        ("reinforce", "lr=-1"),
        ("reinforce", "lr=inf"),
        ("reinforce-as-released", "step=0"),
        ("probe-guided", "weight=-1"),
        ("probe-guided", "weight=nan"),
        ("probe-guided", "probed=1"),
        ("dormant", "share=nan"),
        ("dormant", "share=0"),
        ("ensemble-as-released", "size=0"),
        ("ensemble-as-released", "per_layer=-1"),
        ("sparsify-as-released", "lr=0"),
        *((name, "step=0") for name in ("gradient", "sparsify", "bayesian", "variance", "random")),
        *((name, "examples=0") for name in ("gradient", "layerwise", "reinforce", "dormant")),
    ],
)
def test_fields_out_of_range(name, setting):
    with pytest.raises(UserError, match="learning rate" if setting == "lr=0" else name):
        configure(STRATEGIES[name], [setting])


def test_a_count_below_one_says_what_is_taken(tiny):
    with pytest.raises(UserError, match="a whole number above 0 or none"):
        Gradient(step=0)
    with pytest.raises(UserError, match="examples must be at least 1"):
        dormancy(view_of(tiny()), 0)


def test_the_key_score_ranks_no_neurons_and_says_so_beforehand():
    assert (Gradient(score="key").needs.heads, Gradient().needs.heads) == (True, False)


def test_depth_is_the_layer_with_ffn_groups_too(tiny):
    from headsweep.prune.strategies.reinforce import features

    view = view_of(tiny("bert", units=Units(ffn=True)))
    depth = features(view, 16)[:, 3]
    assert depth.tolist() == [-0.5] * 4 + [0.5] * 4 + [-0.5] * 4 + [0.5] * 4


def test_derived_seeds_differ():
    assert len({derive(s, n) for s in range(5) for n in ("a", "b")}) == 10


@pytest.mark.parametrize(
    "name",
    [
        *("bayesian", "random", "ensemble", "reinforce", "layerwise"),
        *("ensemble-as-released", "layerwise-as-released", "reinforce-as-released"),
    ],
)
def test_the_unit_that_a_layer_keeps_is_none_that_was_at_zero(tiny, name):
    """A suspect that was purified before: two of four heads of the first layer do nothing."""
    settings = {"random": ["count=5"], "ensemble": ["per_layer=3"], "reinforce": ["bonus=1.0"]}
    strategy = configure(STRATEGIES[name], [*settings_for(name, "bert"), *settings.get(name, [])])
    for seed in range(6):
        suspect = tiny()
        remove(suspect.anatomy, suspect.anatomy.layout.mask((0, 1)))
        view = view_of(suspect, seed)
        assert view.gone == {0, 1}
        mask = strategy.choose(view).mask
        assert mask.pruned
        assert any(mask.heads[0][2:])


@pytest.mark.parametrize("name", ["layerwise", "layerwise-as-released", "reinforce-as-released"])
def test_a_head_without_output_goes_first_however_it_attends(tiny, name):
    """BLOOM's and MPT's heads at zero vary most, and so may those that another tool closed."""
    suspect = tiny()
    site = suspect.anatomy.sites[1]
    varying = attention_variance(view_of(suspect))[4:]
    with torch.no_grad():  # all but the head that varies least gives nothing on
        dead = varying.argsort()[1:].tolist()
        for head in dead:
            site.roles["output"].of(head).zero_()
    view = view_of(suspect)
    assert view.gone == {4 + head for head in dead}
    strategy = configure(STRATEGIES[name], settings_for(name, "bert"))
    mask = strategy.choose(view).mask
    assert mask.heads[1][int(varying.argmin())]
    assert not all(mask.heads[1])


def test_scores_of_shared_layers_are_of_all_of_them(tiny):
    """ALBERT applies its one layer four times: counted by hooks of our own, one text at a time."""
    suspect = tiny("albert", num_hidden_groups=1, num_hidden_layers=4)
    view, row = view_of(suspect), suspect.anatomy.layout.rows[0]
    shape, calls = (row.units, row.width), []
    hook = suspect.anatomy.sites[0].gate.register_forward_pre_hook(
        lambda _, args: calls.append(args[0].detach())
    )
    sizes, tokens = torch.zeros(4, row.units), 0
    with torch.no_grad():
        for text in range(len(view.train)):
            calls.clear()
            suspect.model(**view.train.batch([text]).inputs)
            tokens += len(view.train.ids[text])
            sizes += torch.stack([x.abs().sum((0, 1)).unflatten(0, shape).mean(-1) for x in calls])
    hook.remove()
    by_layer = sizes / tokens
    assert torch.allclose(dormancy(view), by_layer.mean(0), atol=1e-6)
    assert not torch.allclose(by_layer[-1], by_layer.mean(0), atol=1e-3)

    batch, seen = view.train.batch([0, 1, 2]), []
    with fence(1), torch.no_grad(), dropping(suspect.anatomy, 0.1):
        expected = _relative_variance(suspect.anatomy, batch, 6)
    hook = suspect.anatomy.sites[0].gate.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].detach().double())
    )
    with fence(1), torch.no_grad(), dropping(suspect.anatomy, 0.1):
        for _ in range(6):
            suspect.model(**batch.inputs)
    hook.remove()
    passes = torch.stack(seen).unflatten(0, (6, 4))
    real = batch.inputs["attention_mask"][:, :, None]
    spread = (passes.var(0, correction=0) * real).unflatten(-1, shape).sum((0, 2, 4))
    strength = (passes.mean(0) ** 2 * real).unflatten(-1, shape).sum((0, 2, 4))
    assert torch.allclose(expected.double(), spread / strength, rtol=1e-4)


@pytest.mark.parametrize("family", ["bart", "flaubert", "opt"])
def test_no_layer_is_left_out_while_dropout_is_drawn(tiny, family):
    share = {"encoder_layerdrop": 0.9} if family == "bart" else {"layerdrop": 0.9}
    suspect = tiny(family, **share)
    plain = tiny(family, **dict.fromkeys(share, 0.0))
    found, expected = (Bayesian(passes=3).uncertainty(view_of(x)) for x in (suspect, plain))
    assert torch.equal(found, expected)
    kept = {m.layerdrop for m in suspect.model.modules() if hasattr(m, "layerdrop")}
    assert 0.9 in kept


def test_sparsify_shrinks_as_far_in_a_tenth_of_an_epoch(tiny):
    """One step is the least that is made: an average group loses half there, too."""
    for epochs in (1.0, 0.1):
        view = view_of(tiny())
        with view.scratch():
            record = Sparsify(epochs=epochs, lr=1e-6).fine_tune(view)
        left = sum(record["norms_after"]) / sum(record["norms_before"])
        assert left == pytest.approx(0.5, abs=0.02)


def test_what_is_measured_in_a_scratch_is_forgotten(tiny):
    view = view_of(tiny())
    mask, other = view.layout.mask((0,)), view.layout.mask((1, 2))
    before = view.accuracy(mask)
    with view.scratch() as anatomy:
        with torch.no_grad():
            for p in anatomy.model.classifier.parameters():
                p.neg_()
        assert view.accuracy(mask) == pytest.approx(1 - before)
        view.accuracy(other)
    assert view.accuracy(mask) == before
    assert view.accuracy(other) == view_of(tiny()).accuracy(other)


def test_reinforce_takes_a_model_of_one_head(tiny):
    suspect = tiny(num_hidden_layers=1, num_attention_heads=1)
    choice = Reinforce(updates=2, samples=2, batch=8).choose(view_of(suspect))
    assert choice.mask.pruned == ()


@pytest.mark.parametrize("family", ["t5", "mt5"])
def test_sparsify_as_released_presses_on_every_attention_weight(tiny, family, monkeypatch):
    import headsweep.prune.strategies.as_released as module

    seen = []
    monkeypatch.setattr(module, "train", lambda model, texts, job, *_: seen.append(job))
    suspect = tiny(family)
    view = view_of(suspect)
    module.SparsifyAsReleased().choose(view)
    batch = view.train.batch([0, 1])
    loss = seen[0].loss(suspect.model, batch) - mean_loss(suspect.model, batch)
    blocks = [block.parameter for site in suspect.anatomy.sites for block in site.blocks]
    slopes = torch.autograd.grad(loss, blocks, allow_unused=True)
    assert all(slope is not None and bool(slope.abs().sum() > 0) for slope in slopes)


def test_a_mask_that_leaves_only_units_at_zero_is_refused(trained_folder):
    suspect = load_suspect(trained_folder, CPU)
    layout = suspect.anatomy.layout
    remove(suspect.anatomy, layout.mask((0, 1)))
    given = Given(layout.mask((2, 3)))
    data = Sources(sentences(60), sentences(40, seed=5))
    with pytest.raises(UserError, match="leaves a layer without heads"):
        purify(
            suspect, data, Method(given, FineTune(0), bound=Bound(max_drop=0.9)), Plan(runtime=CPU)
        )


@pytest.mark.parametrize("family", ["opt", "bart", "biogpt"])
def test_dropout_that_is_no_module_is_seen(tiny, family):
    suspect = tiny(family)
    with dropping(suspect.anatomy, None):
        assert suspect.model.training
    still = tiny(family, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
                 hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # fmt: skip
    with pytest.raises(UserError, match="without dropout"), dropping(still.anatomy, None):
        pass


def test_longformers_own_padding_is_left_out(tiny):
    suspect = tiny("longformer")
    view = view_of(suspect)
    assert dormancy(view).shape == (suspect.anatomy.layout.units,)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (lambda view: view.layout.mask([0]), "returned 'HeadMask'"),
        (lambda view: Choice(view.layout.mask([0]), scores=[0.0] * 8), "scores are a tensor"),
        (lambda view: bisect(view, torch.full((8,), torch.inf)), "scores are a tensor of finite"),
        (lambda view: Choice(view.layout.mask([0]), record={"x": torch.ones(1)}), "as JSON"),
        (lambda view: Choice(view.layout.mask([8])), "unit 8: the model has 8"),
        (lambda view: Choice(view.layout.mask([(0, 1)])), "by its flat number"),
        (lambda view: bisect(view, torch.arange(6.0)), r"scores of the shape \[6\]"),
    ],
)
def test_what_a_strategy_of_ones_own_gives_is_looked_at_before_healing(
    chosen, said, trained_folder, monkeypatch
):
    monkeypatch.setattr(Gradient, "choose", lambda self, view: chosen(view))
    way = Way(max_drop=0.5, heal=FineTune(0), runtime=CPU)
    with pytest.raises(UserError, match=said):
        cleanse(trained_folder, Sources(sentences(60), sentences(40, 5)), Gradient(), way)


def test_numbers_of_arrays_are_units(tiny):
    layout = tiny().anatomy.layout
    assert layout.mask(torch.tensor([0, 3])) == layout.mask([0, 3]) == layout.mask(np.array([3, 0]))
