"""Apple's GPUs have no float64: what is computed in it is computed on the CPU."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaForCausalLM

import headsweep
from conftest import CPU, sentences
from headsweep.heal.fine_tune import FineTune
from headsweep.judge.detectors import DETECTORS
from headsweep.judge.detectors.watch import Watch
from headsweep.model.borrowing import unit_outputs
from headsweep.model.language import LanguageModel, read_losses
from headsweep.prune.choice import Choice
from headsweep.prune.importance import dormancy, sample
from headsweep.prune.strategies import STRATEGIES
from headsweep.prune.strategies.bayesian import Bayesian, dropping
from headsweep.seeding import fence
from headsweep.settings import configure
from headsweep.task.examples import forward
from test_strategies import settings_for, view_of

SOURCES = sorted(Path(headsweep.__file__).parent.rglob("*.py"))


class Apple(TorchFunctionMode):
    """A model's tensors, and what comes of them, are on a device without float64 until .cpu()."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0

    def __enter__(self):
        self.marked((*self.model.parameters(), *self.model.buffers()))
        return super().__enter__()

    def marked(self, tensors):
        for tensor in tensors:
            tensor.on_apple = True

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if not any(getattr(x, "on_apple", False) for x in given):
            return found
        if func is Tensor.cpu:  # an alias, so that the mark stays behind
            return found.view_as(found)
        assert func is not Tensor.numpy, "a tensor on a GPU has no numpy form"
        made = [x for x in tree_leaves(found) if isinstance(x, Tensor)]
        self.calls += 1
        if any(x.dtype == torch.float64 for x in made):
            raise RuntimeError("Cannot convert a MPS Tensor to float64 dtype")
        self.marked(made)
        return found


@pytest.fixture
def apple(tiny):
    suspect = tiny()
    with Apple(suspect.model) as mode:
        yield suspect
    assert mode.calls


def test_the_stand_in_refuses_float64_until_it_is_on_the_cpu(apple):
    weight = apple.model.bert.pooler.dense.weight
    for made in (lambda: weight.double(), lambda: weight.sum() * torch.ones(2).double()):
        with pytest.raises(RuntimeError, match="MPS"):
            made()
    with pytest.raises(AssertionError, match="numpy"):
        (weight * 2).detach().numpy()
    assert (weight * 2).cpu().double().dtype == torch.float64


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_need_no_float64_on_the_device(apple, name):
    strategy = configure(STRATEGIES[name], settings_for(name, "bert"))
    view = view_of(apple)
    assert strategy.choose(view).mask.fits(view.layout)


def test_healing_and_scores_need_no_float64_on_the_device(apple):
    view = view_of(apple)
    assert torch.isfinite(dormancy(view)).all()
    record = FineTune(1, 1e-3, attention=0.15).heal(view, Choice(view.layout.everything()))
    assert record["losses"]


@pytest.mark.parametrize(("name", "settings"), [("strip", []), ("rap", ["word=grim"])])
def test_detectors_need_no_float64_on_the_device(apple, name, settings):
    detector = configure(DETECTORS[name], settings)
    scorer = detector.prepare(Watch(apple, sentences(40), target=1, runtime=CPU))
    assert np.isfinite(scorer.score(sentences(6).texts)).all()


def test_a_language_model_needs_no_float64_on_the_device(tiny):
    suspect = tiny("llama")
    model = LlamaForCausalLM(suspect.model.config).eval()
    language = LanguageModel(model, suspect.tokenizer, "causal", "a test", "none")
    with Apple(model):
        losses = read_losses(language, [[2, 5, 6], [2, 7]])
    assert losses.dtype == torch.float64


def test_every_float64_tensor_is_made_on_the_cpu():
    """Whatever no test above runs through."""
    bare = re.compile(r"(?<!\.cpu\(\))\.double\(\)|\.to\([^)]*float64|\.type\([^)]*float64")
    found = [
        f"{path.name}: {line.strip()}"
        for path in SOURCES
        for line in path.read_text(encoding="utf-8").splitlines()
        if bare.search(line) or ("torch.float64" in line and "device" in line)
    ]
    assert len(SOURCES) > 60
    assert found == []


def test_spread_over_dropout_passes_is_that_of_numpy_in_float64(tiny):
    view = view_of(tiny())
    found = Bayesian(passes=5).uncertainty(view)
    anatomy, expected = view.anatomy, torch.zeros(view.layout.units)
    with fence(view.subseed("bayesian")), torch.inference_mode(), dropping(anatomy, None):
        for batch in sample(view, None).batches(CPU.batch_size):
            seen = []
            with unit_outputs(anatomy) as outputs:
                for _ in range(5):
                    forward(anatomy.model, batch)
                    seen.append([x.double().numpy() for (x,) in outputs])
            real = batch.inputs["attention_mask"].numpy()[:, :, None]
            parts = []
            for site in range(len(anatomy.sites)):
                passes = np.stack([one[site] for one in seen])
                shape = (len(batch.labels), -1, view.layout.rows[site].units, 8)
                spread, mean = passes.var(0) * real, passes.mean(0) ** 2 * real
                spread, mean = (x.reshape(shape).sum((1, 3)) for x in (spread, mean))
                parts.append(spread / mean)
            expected += torch.tensor(np.concatenate(parts, 1).sum(0)).float()
    assert torch.allclose(found, expected / len(view.train), rtol=1e-4)
