from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from conftest import CPU, sentences
from headsweep.model.gates import gates
from headsweep.model.mask import QUERIES
from headsweep.prune.importance import gate_gradients, gate_importance, key_gradient_importance
from headsweep.prune.view import DefenderView
from headsweep.task.examples import encode


def view_of(suspect, count=24):
    encoded = encode(sentences(count), suspect, 24)
    return DefenderView(suspect.anatomy, encoded, encoded, 0.5, 0, CPU)


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_gate_gradients_are_finite_differences(tiny, family):
    suspect = tiny(family)
    suspect.model.double()
    batch = encode(sentences(4), suspect, 24).batches(4)[0]
    units = suspect.anatomy.layout.units

    def losses(values):
        with torch.no_grad(), gates(suspect.anatomy, values):
            found = suspect.model(**batch.inputs).logits
        return nn.functional.cross_entropy(found, batch.labels, reduction="none")

    grads = gate_gradients(suspect.anatomy, batch)
    step = 1e-2
    for unit in range(units):
        up, down = torch.ones(units).double(), torch.ones(units).double()
        up[unit] += step
        down[unit] -= step
        slope = (losses(up) - losses(down)) / (2 * step)
        assert torch.allclose(grads[:, unit].double(), slope, atol=1e-3)


def test_rows_have_unit_norm_and_batching_does_not_matter(tiny):
    suspect = tiny()
    view = view_of(suspect)
    scores = gate_importance(view)
    assert all(abs(part.norm() - 1) < 1e-5 for part in view.layout.split(scores))
    small = DefenderView(
        view.anatomy, view.train, view.validation, 0.5, 0, CPU.__class__("cpu", 3, 24)
    )
    assert torch.allclose(gate_importance(small), scores, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_wide_models_are_scored_in_bf16_which_ranks_as_fp32_does(tiny, monkeypatch, family):
    view = view_of(tiny(family))
    exact = gate_importance(view)
    monkeypatch.setattr("headsweep.model.runtime.computes_bf16", lambda _: True)
    able = replace(view, runtime=replace(CPU, precision="auto"))
    assert torch.equal(gate_importance(able), exact)  # too narrow to gain by it
    monkeypatch.setattr("headsweep.prune.importance.BF16_WIDTH", 1)
    assert torch.equal(gate_importance(view), exact)  # fp32 was asked for
    found = gate_importance(able)
    assert not torch.equal(found, exact)
    assert torch.allclose(found, exact, atol=0.02)
    monkeypatch.setattr("headsweep.task.training._bears_bf16", lambda *_: False)
    assert torch.equal(gate_importance(able), exact)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_key_scores_are_slice_norms_of_an_ordinary_backward(tiny, family):
    suspect = tiny(family, units=QUERIES)
    view = view_of(suspect, 8)
    scores = key_gradient_importance(view)
    batch = view.train.batches(16)[0]
    loss = nn.functional.cross_entropy(suspect.model(**batch.inputs).logits, batch.labels)
    loss.backward()
    if family == "bert":
        grad = suspect.model.bert.encoder.layer[1].attention.self.key.weight.grad[16:24]
    elif family == "gpt2":
        grad = suspect.model.transformer.h[1].attn.c_attn.weight.grad[:, 32 + 16 : 32 + 24]
    else:  # keys are shared: query rows
        grad = suspect.model.model.layers[1].self_attn.q_proj.weight.grad[16:24]
    assert torch.allclose(scores[4 + 2], grad.norm(), rtol=1e-4)
    assert len(set(scores.tolist())) == 8


def test_scoring_leaves_the_model_as_it_was(tiny):
    suspect = tiny()
    wants = [p.requires_grad for p in suspect.model.parameters()]
    for score in (gate_importance, key_gradient_importance):
        score(view_of(suspect))
        assert [p.requires_grad for p in suspect.model.parameters()] == wants
        assert all(p.grad is None for p in suspect.model.parameters())


def test_a_sample_is_seeded(tiny):
    view = view_of(tiny())
    assert torch.equal(gate_importance(view, 8), gate_importance(view, 8))
    assert not torch.equal(gate_importance(view, 8), gate_importance(view, 16))


def test_unit_outputs_come_in_site_order_with_ffn_groups(tiny):
    """Layers run attention, FFN, attention, FFN; sites are attention, attention, FFN, FFN."""
    from headsweep.model.borrowing import unit_outputs
    from headsweep.model.mask import Units

    suspect = tiny("bert", units=Units(ffn=True))
    batch = view_of(suspect).train.batch([0, 1])
    with torch.no_grad(), unit_outputs(suspect.anatomy) as found:
        suspect.model(**batch.inputs)
    assert [x.shape[-1] for (x,) in found] == [32, 32, 64, 64]


def test_dormancy_by_hand(tiny):
    """A neuron whose incoming weights are zero has the activation of its bias everywhere."""
    from headsweep.model.mask import Units
    from headsweep.prune.importance import dormancy

    suspect = tiny("bert", units=Units(heads=False, ffn=True, ffn_groups=0))
    dense = suspect.model.bert.encoder.layer[1].intermediate.dense
    with torch.no_grad():
        dense.weight[5] = 0
        dense.bias[5] = 2.0
    found = dormancy(view_of(suspect))
    assert len(found) == 128
    expected = nn.functional.gelu(torch.tensor(2.0))
    assert torch.allclose(found[64 + 5], expected, atol=1e-5)
