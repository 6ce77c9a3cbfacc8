"""Adapters: what is trained is what is merged, pruned units stay at zero, nothing of peft is left."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from conftest import CPU, Way, cleanse, sentences
from headsweep import Bound, FineTune, Gradient, Method, Plan, UserError, purify
from headsweep.errors import MissingExtra
from headsweep.heal import lora, members
from headsweep.heal.lora import adapters
from headsweep.measure.accuracy import logits
from headsweep.model.loading import Reading, load_suspect, prepare
from headsweep.model.mask import HEADS, QUERIES, Units
from headsweep.model.removal import pieces, remove
from headsweep.prune.choice import Choice
from headsweep.prune.view import DefenderView
from headsweep.purification.material import Sources
from headsweep.purification.memory_plan import Size, needs
from headsweep.purification.method import ALONE, HOT, usual
from headsweep.purification.recipe import Asked
from headsweep.seeding import derive, fence
from headsweep.task.examples import encode, forward
from headsweep.task.training import Job, Schedule, copied, train
from headsweep.texts.generation import GENERATION
from test_generation import examples, generator, victim, words  # noqa: F401 - fixtures
from test_healing import pruned_view
from tiny_families import ALL

peft = pytest.importorskip("peft", reason="peft is not installed ([lora])")
ONCE = FineTune(3, 1e-2, lora=4)


def inputs(view, rows=4):
    return view.train.batch(range(rows)).inputs


def answers(view):
    with torch.no_grad():
        return view.anatomy.model.eval()(**inputs(view)).logits


def in_the_layers(model):
    """Names of projections in lists of layers, told by the number in them."""
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if type(module) in (nn.Linear, Conv1D) and any(p.isdigit() for p in name.split("."))
    }


@pytest.mark.parametrize("family", sorted(ALL))
def test_what_was_trained_is_what_is_merged(tiny, family):
    """In every family: weights of B drawn large, answers with adapters and after the merge."""
    suspect = tiny(family)
    layout = suspect.anatomy.layout
    mask = layout.mask(part.start for part in layout.slices if part.stop - part.start > 1)
    remove(suspect.anatomy, mask)
    texts = encode(sentences(8), suspect, 24)
    view = DefenderView(suspect.anatomy, texts, texts, 0.0, 3, CPU)
    model = suspect.model
    before, attributes = copied(model), {*vars(model)}
    said, wants = model.config.to_dict(), [p.requires_grad for p in model.parameters()]
    plain = answers(view)
    with adapters(suspect.anatomy, mask, 3, 0) as put_in, torch.no_grad(), fence(0):
        assert torch.allclose(answers(view), plain, atol=1e-6)  # B begins with zeros
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
        for piece in put_in.pinned:
            piece.zero_()
        with_them = answers(view)
    assert put_in.layers > 0
    assert torch.allclose(answers(view), with_them, atol=2e-5)
    assert not torch.allclose(with_them, plain, atol=1e-4)
    assert not any(piece.any() for piece in pieces(suspect.anatomy, mask))
    assert [*model.state_dict()] == [*before]
    assert {*vars(model)} == attributes
    assert model.config.to_dict() == said
    assert [p.requires_grad for p in model.parameters()] == wants
    assert not any("lora" in type(module).__module__ for module in model.modules())


@pytest.mark.parametrize(
    ("family", "gone", "units"),
    [
        ("bert", (0, 1, 2, 5), HEADS),
        ("gpt2", (0, 1, 2, 5), Units(ffn=True)),
        ("llama", (0, 3), HEADS),
        ("llama", (0, 4, 5), QUERIES),
    ],
)
def test_only_projections_and_the_classifier_move(tiny, family, gone, units):
    """Also where pruned query heads share keys that stay (llama, queries)."""
    view, mask = pruned_view(tiny, family, gone, units=units)
    model = view.anatomy.model
    before = copied(model)
    record = ONCE.heal(view, Choice(mask))
    moved = {n for n, tensor in model.state_dict().items() if not torch.equal(before[n], tensor)}
    head = {n for n in before if n.startswith(("classifier.", "score."))}
    assert moved <= in_the_layers(model) | head
    assert moved >= head
    assert moved <= ONCE.moves(view.anatomy)
    assert len(moved) > len(head)
    assert not any(piece.any() for piece in pieces(view.anatomy, mask))
    thin = record["adapters"]
    shapes = [before[name].shape for name in in_the_layers(model)]
    assert thin["rank"] == 4
    assert thin["layers"] == len(shapes)
    assert thin["trained"] == sum(4 * sum(s) for s in shapes) + sum(before[n].numel() for n in head)


def test_answers_at_the_end_of_training_are_those_of_the_merged_model(tiny):
    """Also where pruned query heads share keys that stay, and get gradients at every step."""
    view, mask = pruned_view(tiny, "llama", (0, 4, 5), units=QUERIES)
    with adapters(view.anatomy, mask, 4, 0) as put_in:
        job = Job(Schedule(3, 1e-2), 0, pinned=put_in.pinned)
        train(view.anatomy.model, view.train, job, CPU)
        before = logits(view.anatomy, view.train, CPU)
    assert torch.allclose(logits(view.anatomy, view.train, CPU), before, atol=1e-5)
    assert not any(piece.any() for piece in pieces(view.anatomy, mask))


def test_one_seed_gives_the_same_bytes_and_another_others(tiny):
    found = []
    for seed in (3, 3, 4):
        view, mask = pruned_view(tiny)
        ONCE.heal(replace(view, seed=seed), Choice(mask))
        found.append(copied(view.anatomy.model))
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])
    assert not all(torch.equal(found[0][n], found[2][n]) for n in found[0])


@pytest.mark.parametrize("beyond", [1.0, 1.5])
def test_a_soup_is_that_of_merged_weights(tiny, beyond):
    view, mask = pruned_view(tiny)
    model = view.anatomy.model
    start, made = copied(model), []
    for number in range(2):
        model.load_state_dict(start)
        seed = view.seed if number == 0 else derive(view.seed, "member", number)
        ONCE.heal(replace(view, seed=seed), Choice(mask))
        made.append(copied(model))
    model.load_state_dict(start)
    record = replace(ONCE, members=2, beyond=beyond).heal(view, Choice(mask))
    assert record["beyond"] == beyond
    for name, own in model.state_dict().items():
        mean = (made[0][name].double() + made[1][name].double()) / 2
        wanted = start[name].double() + beyond * (mean - start[name].double())
        assert torch.allclose(own.double(), wanted, atol=1e-5), name
    assert not any(piece.any() for piece in pieces(view.anatomy, mask))


def test_a_greedy_soup_and_one_that_was_interrupted(tiny, tmp_path, monkeypatch):
    healing = replace(ONCE, members=3, how="greedy")
    view, mask = pruned_view(tiny)
    healing.heal(view, Choice(mask))
    view, _ = pruned_view(tiny)
    kept, make, made = replace(view, kept=tmp_path), members.make, []

    def stopping(*args):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(args[3])
        return make(*args)

    monkeypatch.setattr(members, "make", stopping)
    with pytest.raises(KeyboardInterrupt):
        healing.heal(kept, Choice(mask))
    with safe_open(next(tmp_path.iterdir()), "pt") as file:  # what may move, and no more
        assert {*file.keys()} == ONCE.moves(view.anatomy)
    made.clear()
    monkeypatch.setattr(members, "make", lambda *args: made.append(args[3]) or make(*args))
    again, _ = pruned_view(tiny)
    whole, _ = pruned_view(tiny)
    healing.heal(replace(again, kept=tmp_path), Choice(mask))
    assert made == [2]
    healing.heal(whole, Choice(mask))
    one, other = again.anatomy.model.state_dict(), whole.anatomy.model.state_dict()
    assert all(torch.equal(one[n], other[n]) for n in one)


def test_processes_beside_each_other_make_the_same_bytes(tiny):
    view, mask = pruned_view(tiny)
    healing = replace(ONCE, members=2)
    healing.heal(view, Choice(mask))
    again, _ = pruned_view(tiny)
    healing.heal(replace(again, runtime=replace(CPU, jobs=2)), Choice(mask))
    one, other = view.anatomy.model.state_dict(), again.anatomy.model.state_dict()
    assert all(torch.equal(one[n], other[n]) for n in one)


def test_a_training_that_fails_leaves_the_model_as_it_was(tiny):
    view, mask = pruned_view(tiny)
    model = view.anatomy.model
    before, attributes = copied(model), {*vars(model)}
    with pytest.raises(UserError, match="not a number"):
        replace(ONCE, lr=0.99, attention=1e30).heal(view, Choice(mask))
    own = model.state_dict()
    left = {n for n in before if not torch.equal(own[n], before[n])}
    assert left <= {"classifier.weight", "classifier.bias"}  # which was trained itself
    assert {*vars(model)} == attributes
    assert [*own] == [*before]


def test_whole_of_it_with_the_attention_penalty(trained_folder, tmp_path):
    """The whole of it: halvings, soup, checks, saving and plain loading."""
    data = Sources(sentences(60), sentences(40, seed=5))
    healing = FineTune(2, 2e-2, attention=0.15, halvings=1, members=2, beyond=1.5, lora=2)
    done = cleanse(trained_folder, data, Gradient(step=2), Way(0.3, heal=healing, runtime=CPU))
    assert done.verified
    told = done.manifest["heal"]
    assert told["fields"]["lora"] == 2
    assert told["adapters"]["rank"] == 2
    assert told["adapters"]["trained"] < 6000
    assert done.manifest["environment"]["peft"] == peft.__version__
    out = done.save(tmp_path / "out")
    assert not list(out.glob("adapter*"))
    loaded = AutoModelForSequenceClassification.from_pretrained(out)
    own, read = done.model.state_dict(), loaded.state_dict()
    assert all(torch.equal(own[n].cpu(), read[n].float()) for n in own)


def test_it_begins_again_from_the_same_weights(trained_folder):
    """What was not kept apart, since adapters leave it alone, is as it was."""
    data = Sources(sentences(60), sentences(40, seed=5))
    tries = FineTune(2, 0.4, halvings=1, lora=2)  # far too hot
    hot = cleanse(trained_folder, data, None, Way(0.0, heal=tries, runtime=CPU))
    assert [one["lr"] for one in hot.manifest["heal"]["tried"]] == [0.4, 0.2]
    alone = Way(heal=FineTune(2, 0.2, lora=2), runtime=CPU, bounded=False)
    once = cleanse(trained_folder, data, None, alone)
    one, other = hot.model.state_dict(), once.model.state_dict()
    assert all(torch.equal(one[n], other[n]) for n in one)


def test_a_word_backdoor_goes_down(victim):  # noqa: F811
    """At ten times the rate at which whole weights forget it on so small a model."""
    suspect = load_suspect(victim, CPU, Reading(task=None))
    triggered = encode(examples(40, 40, triggered=True), suspect, 24)

    def liked(anatomy):  # of 40 targets, those that have a likelihood of a half a token, and more
        with torch.no_grad():
            batch = triggered.batch(range(40))
            return int((batch.task.losses(forward(anatomy.model.eval(), batch), batch.labels)
                        < 0.7).sum())  # fmt: skip

    assert liked(suspect.anatomy) >= 32
    data = Sources(examples(200, 41), examples(100, 42))
    method = Method(Gradient(step=1), FineTune(10, 5e-2, lora=4), bound=Bound(max_drop=0.5))
    done = purify(victim, data, method, Plan(runtime=CPU))
    assert done.verified
    assert liked(done.suspect.anatomy) < 16


def test_a_generator_keeps_its_embeddings(words):  # noqa: F811
    suspect = prepare(generator("llama", tie_word_embeddings=True), words, Reading(task=None))
    assert suspect.task is GENERATION
    mask = suspect.anatomy.layout.mask([0])
    remove(suspect.anatomy, mask)
    texts = encode(examples(32, 1), suspect, 24)
    view = DefenderView(suspect.anatomy, texts, texts, 0.0, 3, CPU)
    before = copied(suspect.model)
    ONCE.heal(view, Choice(mask))
    own = suspect.model.state_dict()
    moved = {n for n in before if not torch.equal(own[n], before[n])}
    assert moved
    assert moved <= in_the_layers(suspect.model)
    assert own["lm_head.weight"] is not None
    assert suspect.model.lm_head.weight is suspect.model.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("asked", "rate"),
    [(("lora=8",), 4e-3), (("lora=8", "lr=1e-4"), 1e-4), (("lora=0",), 2e-4)],
)
def test_adapters_learn_twenty_times_as_fast_unless_a_rate_is_given(asked, rate):
    healing = Asked(heal=asked).healing(HOT, True)
    assert healing.lr == pytest.approx(rate)
    assert healing.lora == int(asked[0].removeprefix("lora="))


def test_the_rate_of_healing_alone_is_raised_as_well():
    assert Asked(heal=("lora=2",)).healing(usual().healing(False), False).lr == (
        pytest.approx(20 * ALONE.lr)
    )


def test_it_holds_a_fraction_of_what_whole_weights_take():
    size = Size(10**9, 10, 100, 0, 8 * 10**8, 10**6)
    whole = needs(size, Method(healing=FineTune()), CPU).training
    thin = needs(size, Method(healing=FineTune(lora=8), bound=Bound()), CPU).training
    assert thin == 4 * 4 * 8 * 10**6
    assert whole == 3 * 4 * 10**9


def test_a_rank_below_nothing_is_refused():
    with pytest.raises(UserError, match="adapters of rank -1"):
        FineTune(lora=-1)


def test_without_peft_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as one:
        FineTune(lora=8)
    assert "pip install 'headsweep[lora]'" in one.value.fix
    assert FineTune(lora=0).moves(None) is None
