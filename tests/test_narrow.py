"""A frozen model held in two bytes a weight gives, bit for bit, what float32 gives."""

from __future__ import annotations

import copy
import gc
import json
import pickle
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from conftest import CPU, tiny_model
from headsweep import Bound, FineTune, Gradient, Method, Plan, purify
from headsweep.export.model_folder import reload
from headsweep.export.verify import verify
from headsweep.heal import lora
from headsweep.heal.entropy import EntropyFirst
from headsweep.heal.finished import put, taken
from headsweep.heal.layer_consistency import LayerConsistency
from headsweep.heal.lora import adapters
from headsweep.model.content import content_hash
from headsweep.model.families import FAMILIES
from headsweep.model.loading import Reading, load_suspect
from headsweep.model.narrow import NARROW, bytes_held, hold, widen
from headsweep.model.padding import probe_inputs
from headsweep.prune.strategies.nothing import Nothing
from headsweep.prune.strategies.sparsify import Sparsify
from headsweep.task.examples import encode
from headsweep.task.training import Job, Schedule, mean_loss, round_weights, train
from headsweep.verbs.judging import evaluate
from test_generation import examples, generator, words  # noqa: F401 - fixtures
from tiny_families import ALL

FROZEN = Reading(task=None, frozen=True)
DATA = examples(60, 1)
KINDS = {
    "llama": {"tie_word_embeddings": True},
    "gpt2": {},
    "gemma2": {},
    "falcon": {},
    "mixtral": {},
}


def saved(folder, words, family, dtype=torch.bfloat16, **changes):  # noqa: F811
    generator(family, **(KINDS.get(family, {}) | changes)).to(dtype).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def narrow(model):
    return {name for name, p in model.named_parameters() if p.dtype in NARROW}


def same(one, other):
    own, theirs = one.state_dict(), other.state_dict()
    return [*own] == [*theirs] and all(torch.equal(own[n].float(), theirs[n].float()) for n in own)


@pytest.mark.parametrize("family", sorted(ALL))
def test_every_family_answers_the_same(family, tmp_path):
    """Decoders with their matrices narrow; others are float32, as ever."""
    tiny_model(family).to(torch.bfloat16).save_pretrained(tmp_path)

    def load():
        found = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype="auto")
        return found.eval()

    wide, held = load().float(), hold(load())
    row = FAMILIES[held.config.model_type]
    assert bool(narrow(held)) == (row.reads_last and not row.gate)
    assert not any("norm" in name or name.startswith("score") for name in narrow(held))
    inputs = probe_inputs(wide)
    with torch.no_grad():
        said = wide(**inputs).logits
        assert torch.equal(held(**inputs).logits, said)
        assert torch.equal(widen(held)(**inputs).logits, said)
    assert not narrow(held)
    assert not any("forward" in vars(module) for module in held.modules())


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("dtype", NARROW)
def test_a_generator_answers_as_plain_transformers_in_float32(words, tmp_path, family, dtype):  # noqa: F811
    folder = saved(tmp_path, words, family, dtype)
    held = load_suspect(folder, CPU, FROZEN).model
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    two = sum(p.numel() for p in held.parameters() if p.dtype == dtype)
    experts = sum(p.numel() for p in held.parameters() if p.dim() == 3)
    assert two + experts > 0.9 * sum(p.numel() for p in held.parameters())
    assert held.get_output_embeddings().weight.dtype == dtype
    tied = held.get_input_embeddings().weight is held.get_output_embeddings().weight
    assert tied == plain.config.tie_word_embeddings
    inputs = probe_inputs(plain)
    with torch.no_grad():
        if family != "gemma2":  # whose scale of embeddings is rounded in a narrow checkpoint
            assert torch.equal(held(**inputs).logits, plain(**inputs).logits)
        wide = load_suspect(folder, CPU, replace(FROZEN, frozen=False)).model
        assert not narrow(wide)
        assert torch.equal(held(**inputs).logits, wide(**inputs).logits)
        twins = copy.deepcopy(held), pickle.loads(pickle.dumps(held))
        assert all(torch.equal(one(**inputs).logits, wide(**inputs).logits) for one in twins)
    assert content_hash(held) == content_hash(wide)
    assert bytes_held(held.config) == (4 if experts else 2)
    assert bytes_held(AutoConfig.from_pretrained(folder)) == bytes_held(held.config)


def both_ways(monkeypatch, folder, method, out):
    """Purify with matrices held narrow, and with all in float32."""
    found = []
    for name in ("held", "wide"):
        with monkeypatch.context() as patch:
            if name == "wide":
                patch.setattr("headsweep.model.loading.hold", lambda model: model.float())
            done = purify(folder, DATA, method, Plan(runtime=CPU))
        found.append((done, done.save(out / name)))
    return found


METHODS = {
    "adapters": Method(Nothing(), FineTune(2, 1e-2, lora=4, halvings=1), bound=Bound(0.5)),
    "search, then adapters": Method(Gradient(step=1), FineTune(1, 1e-3, lora=4), bound=Bound(0.9)),
    "a soup of adapters": Method(
        Nothing(), FineTune(1, 1e-2, lora=2, members=3, beyond=2.0, halvings=1), bound=Bound(0.02)
    ),
    "search alone": Method(Gradient(step=1), FineTune(0), bound=Bound(0.9)),
}


@pytest.mark.parametrize("way", METHODS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_purification_comes_to_the_same(words, tmp_path, monkeypatch, family, way):  # noqa: F811
    folder = saved(tmp_path / "suspect", words, family, num_key_value_heads=4)
    method = METHODS[way]
    assert method.frozen
    (held, one), (wide, other) = both_ways(monkeypatch, folder, method, tmp_path)
    assert narrow(held.suspect.model)
    assert not narrow(wide.suspect.model)
    for file in one.glob("*.safetensors"):
        assert file.read_bytes() == (other / file.name).read_bytes()
    differ = {key for key in wide.manifest if held.manifest[key] != wide.manifest[key]}
    assert differ <= {"seconds", "peak_memory_mib"}  # before, pruned, after, heal, search: the same
    assert held.mask == wide.mask
    assert all(check.passed for check in verify(one))
    assert not narrow(held.model)
    assert same(held.model, reload(other))


class Widened(TorchDispatchMode):
    """Notes the memory of every weight that is widened while it is on."""

    def __init__(self, shapes):
        super().__init__()
        self.shapes, self.found = shapes, []

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        made = call(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and isinstance(args[0], torch.Tensor):
            widens = args[0].dtype in NARROW and made.dtype == torch.float32
            if widens and made.shape in self.shapes:
                self.found.append(StorageWeakRef(made.untyped_storage()))
        return made

    @property
    def alive(self):
        gc.collect()
        return sum(not one.expired() for one in self.found)


def test_training_adapters_keeps_no_weight_in_float32(words, tmp_path, monkeypatch):  # noqa: F811
    suspect = load_suspect(saved(tmp_path, words, "llama"), CPU, FROZEN)
    model, anatomy = suspect.model, suspect.anatomy
    batch = encode(examples(4, 2), suspect, 24).batch(range(4))
    shapes = {p.shape for p in model.parameters() if p.dtype in NARROW}

    def kept():
        with Widened(shapes) as mode:
            loss = mean_loss(model, batch)
            left = mode.alive
            loss.backward()
        assert len(mode.found) > 14  # every projection forth, all but the first back
        return left, mode.alive

    with adapters(anatomy, anatomy.layout.mask([]), 2, 0):
        assert {p.dtype for n, p in model.named_parameters() if "lora" in n} == {torch.float32}
        assert kept() == (0, 0)
        monkeypatch.setattr("headsweep.model.narrow.saved_tensors_hooks", lambda *_: nullcontext())
        assert kept()[0] == 12  # without it all but the first three, which have no way back
    assert len(narrow(model)) == 1 + 2 * 7


def test_what_is_trained_is_the_same_to_the_last_bit(words, tmp_path):  # noqa: F811
    folder = saved(tmp_path, words, "gemma2")
    found = []
    for frozen in (True, False):
        suspect = load_suspect(folder, CPU, replace(FROZEN, frozen=frozen))
        texts, anatomy = encode(DATA, suspect, 24), suspect.anatomy
        with adapters(anatomy, anatomy.layout.mask([]), 3, 5):
            job = Job(Schedule(1, 1e-2), 3)
            losses = train(suspect.model, texts, job, CPU)
            thin = {n: p.clone() for n, p in suspect.model.named_parameters() if "lora" in n}
        found.append((losses, thin, suspect))
    (one, thin, held), (other, theirs, wide) = found
    assert one == other
    assert all(torch.equal(thin[name], theirs[name]) for name in theirs)
    inputs = probe_inputs(wide.model)
    with torch.no_grad():
        assert torch.equal(held.model(**inputs).logits, wide.model(**inputs).logits)
    put(tmp_path / "kept", held.model, {"lr": 1}, lora.moved(held.anatomy))
    assert (tmp_path / "kept").stat().st_size < 2 * sum(p.numel() for p in thin.values()) * 4
    for model in (held.model, wide.model):
        round_weights(model, torch.bfloat16)
    assert same(held.model, wide.model)
    again = load_suspect(folder, CPU, FROZEN)
    assert taken(tmp_path / "kept", again.model, lora.moved(again.anatomy)) == {"lr": 1}
    assert not same(again.model, wide.model)
    round_weights(again.model, torch.bfloat16)
    assert same(again.model, wide.model)


def test_whole_weights_are_trained_in_float32(words, tmp_path):  # noqa: F811
    folder = saved(tmp_path, words, "llama")
    done = purify(folder, DATA, Method(Nothing(), FineTune(1), bound=None), Plan(runtime=CPU))
    assert not narrow(done.suspect.model)
    assert done.manifest["saved_precision"] == "bfloat16"
    held = load_suspect(folder, CPU, FROZEN)
    with pytest.raises(AssertionError, match="not trained"):
        train(held.model, encode(DATA, held, 24), Job(), CPU)
    again = purify(held, DATA, Method(Nothing(), FineTune(1), bound=None), Plan(runtime=CPU),
                   tokenizer=words)  # fmt: skip
    assert same(again.model, done.model)


def test_what_a_method_trains_it_says():
    assert FineTune(0).frozen
    assert FineTune(lora=4, halvings=2).frozen
    assert not FineTune().frozen
    assert FineTune(lora=4, members=2, beyond=1.5).frozen
    assert not FineTune(lora=4, members=2, how="greedy").frozen
    assert not FineTune(0, base="base").frozen
    assert LayerConsistency(0).frozen
    assert not LayerConsistency().frozen
    assert EntropyFirst(0, 0).frozen
    assert not EntropyFirst().frozen
    none = FineTune(0)
    assert Method(Gradient(), none).frozen
    assert not Method(Gradient("key"), none).frozen
    assert not Method(Sparsify(), none).frozen
    assert not Method().frozen


def test_judging_holds_models_narrow(words, tmp_path, monkeypatch):  # noqa: F811
    folder = saved(tmp_path, words, "llama")
    seen = []

    def noted(model):
        seen.append(hold(model))
        return seen[-1]

    monkeypatch.setattr("headsweep.model.loading.hold", noted)
    rows = examples(8, 3)
    held = evaluate(folder, rows, compute=CPU, progress=False)
    assert narrow(seen[0])
    monkeypatch.setattr("headsweep.model.loading.hold", lambda model: model.float())
    assert held == evaluate(folder, rows, compute=CPU, progress=False)


def test_members_made_in_other_processes_and_kept_are_the_same(words, tmp_path):  # noqa: F811
    """What a folder keeps of them is their thin matrices; a run goes on from there."""
    folder = saved(tmp_path / "suspect", words, "llama")
    healing = FineTune(1, 1e-2, lora=2, members=2, beyond=1.5)
    method, kept = Method(Nothing(), healing, bound=None), tmp_path / "kept"
    here = purify(folder, DATA, method, Plan(runtime=replace(CPU, jobs=1)))
    two = Plan(runtime=replace(CPU, jobs=2))
    first, again = (purify(folder, DATA, method, two, keep=kept) for _ in range(2))
    assert all(narrow(one.suspect.model) for one in (here, first, again))
    assert all(same(one.suspect.model, here.suspect.model) for one in (first, again))
    assert len({json.dumps(one.manifest["heal"]) for one in (here, first, again)}) == 1
