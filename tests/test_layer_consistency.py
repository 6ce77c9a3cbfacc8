"""CROW: consistency between layers by hand, one text at a time, and a generator healed with it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from weakref import WeakSet

import pytest
import torch

from conftest import CPU, sentences, tiny_tokenizer
from every_kind import COMPUTE, command_line, written
from headsweep import FineTune, Method, Plan, Sources, UserError, purify
from headsweep.heal import layer_consistency as module
from headsweep.heal.layer_consistency import (
    LayerConsistency,
    embeddings_moved,
    inconsistency,
    worst,
)
from headsweep.model.loading import Reading, prepare
from headsweep.prune.choice import Choice
from headsweep.prune.strategies.random import Random
from headsweep.prune.view import DefenderView
from headsweep.purification.memory_plan import Size, needs
from headsweep.task.examples import encode
from headsweep.task.training import mean_loss
from test_generation import examples, generator, rows

FAMILIES = ("gpt2", "llama", "gemma2")
ANY = Reading(task=None)


@pytest.fixture(params=FAMILIES)
def made(request):
    """A tiny generator, and a batch of texts of different lengths."""
    suspect = prepare(generator(request.param), tiny_tokenizer(), ANY)
    encoded = encode(examples(6, 1), suspect, 24)
    assert len({len(row) for row in encoded.ids}) > 1
    return suspect.model.eval(), encoded


def by_hand(model, ids, moved=None):
    """The same of one text, from plain transformers and loops over layers and tokens."""
    embeddings = model.get_input_embeddings()(torch.tensor([ids]))
    if moved is not None:
        embeddings = embeddings + moved
    states = model(inputs_embeds=embeddings, output_hidden_states=True).hidden_states
    turns = []
    for before, after in pairwise(states):
        for token in range(len(ids)):
            a, b = before[0, token], after[0, token]
            turns.append(1 - torch.dot(a, b) / (a.norm() * b.norm()))
    assert len(turns) == len(ids) * (len(states) - 1)
    return torch.stack(turns).mean()


def test_consistency_is_that_of_one_text_at_a_time_and_padding_does_not_count(made):
    model, encoded = made
    batch = encoded.batch(range(6))
    assert (batch.inputs["attention_mask"] == 0).any()
    with torch.no_grad():
        found = inconsistency(model, batch)
        expected = torch.stack([by_hand(model, row) for row in encoded.ids]).mean()
        padded = replace(encoded, pad=7).batch(range(6))
        assert torch.allclose(inconsistency(model, padded), found, atol=1e-6)
    assert found > 0.01
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_parts_of_a_batch_add_up_to_it(made):
    model, encoded = made
    batch = encoded.batch(range(6))
    with torch.no_grad():
        parts = [inconsistency(model, part) * part.share for part in batch.split(4)]
        assert torch.allclose(torch.stack(parts).sum(), inconsistency(model, batch), atol=1e-6)


def test_the_moved_embeddings_turn_hidden_states_more(made):
    model, encoded = made
    batch = encoded.batch(range(6))
    moved = worst(model, batch, 1e-3)
    assert all(parameter.grad is None for parameter in model.parameters())
    real = batch.inputs["attention_mask"].bool()
    assert torch.equal(moved[real].abs().unique(), torch.tensor([1e-3]))
    assert not moved[~real].any()
    with torch.no_grad():
        before = inconsistency(model, batch)
        with embeddings_moved(model, moved):
            after = inconsistency(model, batch)
        with embeddings_moved(model, -moved):
            below = inconsistency(model, batch)
        assert below < before < after
        assert inconsistency(model, batch) == before  # nothing is left behind
        own = [by_hand(model, row, moved[i, : len(row)]) for i, row in enumerate(encoded.ids)]
        assert torch.allclose(torch.stack(own).mean(), after, atol=1e-5)


def test_the_loss_that_is_trained_on_is_both(monkeypatch):
    suspect = prepare(generator("llama"), tiny_tokenizer(), ANY)
    encoded = encode(examples(6, 2), suspect, 24)
    model, batch, jobs = suspect.model.eval(), encoded.batch(range(6)), []
    monkeypatch.setattr(module, "train", lambda _, texts, job, *more: jobs.append(job) or [])
    view = DefenderView(suspect.anatomy, encoded, encoded, 0.0, 0, CPU)
    LayerConsistency(alpha=2.0, epsilon=0.05).heal(view, Choice(suspect.anatomy.layout.mask([])))
    found = jobs[0].loss(model, batch)
    found.backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0
    with embeddings_moved(model, worst(model, batch, 0.05)), torch.no_grad():
        apart = inconsistency(model, batch)
    with torch.no_grad():
        plain = batch.task.answers(model, batch).mean()
    assert torch.allclose(found, plain + 2 * apart, atol=1e-5)


def held(healing, layers, monkeypatch):
    """Return how many numbers are held for the backward pass of a step on a tiny Llama's batch."""
    suspect = prepare(generator("llama", num_hidden_layers=layers), tiny_tokenizer(), ANY)
    encoded = encode(examples(6, 2), suspect, 24)
    model, batch, alive = suspect.model.train(), encoded.batch(range(6)), WeakSet()
    view = DefenderView(suspect.anatomy, encoded, encoded, 0.0, 0, CPU)
    loss = mean_loss
    if isinstance(healing, LayerConsistency):
        jobs = []
        with monkeypatch.context() as patched:
            patched.setattr(module, "train", lambda _, texts, job, *more: jobs.append(job) or [])
            healing.heal(view, Choice(suspect.anatomy.layout.mask([])))
        loss = jobs[0].loss

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor
            alive.add(self)

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        found = loss(model, batch)  # its graph is alive as long as it is
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    parts = [kept.tensor.untyped_storage() for kept in alive]
    assert found.requires_grad
    return sum(
        {p.data_ptr(): p.nbytes() // 4 for p in parts if p.data_ptr() not in weights}.values()
    )


def test_the_memory_that_is_foretold_grows_as_what_a_step_holds(monkeypatch):
    """A layer costs two passes in the place of one, and the unit vectors of its cosine."""
    grows, foretold = {}, {}
    for healing in (FineTune(), LayerConsistency()):
        few, many = (held(healing, layers, monkeypatch) for layers in (2, 4))
        grows[type(healing)] = many - few
        size = Size(10**6, 2, 32, answers=120)
        few, many = (
            needs(replace(size, layers=layers), Method(healing=healing), CPU) for layers in (2, 4)
        )
        foretold[type(healing)] = many.batch - few.batch
        assert few.training == 3 * few.weights
    measured = grows[LayerConsistency] / grows[FineTune]
    assert foretold[LayerConsistency] / foretold[FineTune] == 2
    assert measured == pytest.approx(2, rel=0.1)
    assert LayerConsistency(epochs=0).copies == FineTune(0).copies


@pytest.fixture
def folder(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "[SEP]"
    path = tmp_path / "suspect"
    generator("llama").save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_generator_is_healed_saved_and_verified_from_the_command_line(folder, tmp_path, capsys):
    said = command_line(capsys)
    data, out = written(tmp_path / "clean.jsonl", rows(examples(40, 3))), tmp_path / "out"
    said("defend", folder, "--with", "crow", "--set", "epochs=2", "--set", "lr=1e-3",
         "--data", data, "--out", out, *COMPUTE, "-q")  # fmt: skip
    assert "ok" in said("verify", out)
    told = json.loads((out / "headsweep.json").read_text())["heal"]
    assert told["fields"] == {"epochs": 2, "lr": 1e-3, "alpha": 5.5, "epsilon": 0.1}
    assert told["losses"][-1] < told["losses"][0]
    wrong = ("--with", "crow", "--set", "alpha=-1", "--data", data, "--out", tmp_path / "b")
    assert "give numbers of 0 or more" in said("defend", folder, *wrong, code=2)


def test_hidden_states_turn_less_afterwards_and_pruned_heads_stay_zero(folder):
    data = Sources(examples(60, 4), examples(30, 5))
    found = {}
    for alpha in (0.0, 20.0):
        healing = LayerConsistency(epochs=4, lr=2e-3, alpha=alpha, epsilon=0.02)
        method = Method(Random(count=1), healing, bound=None)
        done = purify(folder, data, method, Plan(runtime=CPU))
        assert done.verified
        assert done.mask.pruned
        batch = encode(examples(20, 6), done.suspect, 24).batch(range(20))
        with torch.no_grad():
            found[alpha] = float(inconsistency(done.model, batch))
    assert found[20.0] < 0.8 * found[0.0]


def test_a_model_without_hidden_states_of_every_token_is_refused(tiny):
    suspect = tiny("funnel")
    batch = encode(sentences(4), suspect, 24).batch(range(4))
    with pytest.raises(UserError, match="no hidden states of every token"):
        inconsistency(suspect.model, batch)


@pytest.mark.parametrize("family", ["t5", "umt5", "bart"])
def test_an_encoder_beside_a_decoder_is_refused_before_anything_long(tiny, family):
    with pytest.raises(UserError, match="no hidden states of every token"):
        LayerConsistency().fitted(tiny(family))


def test_embeddings_that_a_model_scales_in_place_are_moved(tiny):
    suspect = tiny("ctrl")
    batch = encode(sentences(4), suspect, 24).batch(range(4))
    assert worst(suspect.model, batch, 0.1).abs().max() == pytest.approx(0.1)
