from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from conftest import tiny_model
from headsweep.errors import UserError
from headsweep.model.anatomy import locate
from headsweep.model.families import FAMILIES, Adapter, read_adapter
from headsweep.model.gates import check_gates, gates, masked
from headsweep.model.mask import QUERIES, HeadMask, Layout, Row, Units
from headsweep.model.padding import probe_inputs
from headsweep.model.removal import already_pruned, pieces, remove
from tiny_families import CONFIGS


def outputs(model, inputs):
    with torch.inference_mode():
        return model(**inputs).logits.clone()


@pytest.mark.parametrize("family", CONFIGS)
def test_closed_gate_equals_zeroed_output_columns(family):
    """The oracle: zero by hand the output projection's columns of one query head."""
    model = tiny_model(family)
    anatomy, inputs = locate(model, units=QUERIES), probe_inputs(model)
    layout = anatomy.layout
    assert [row.units for row in layout.rows] == [4, 4]
    before = outputs(model, inputs)
    for unit in (1, 6):
        with masked(anatomy, layout.mask([unit])):
            gated = outputs(model, inputs)
        layer, head = divmod(unit, 4)
        site = anatomy.sites[layer]
        weight, width = site.gate.weight, site.row.width
        saved = weight.detach().clone()
        with torch.no_grad():
            columns = slice(head * width, (head + 1) * width)
            if family == "gpt2":
                weight[columns] = 0
            else:
                weight[:, columns] = 0
        zeroed = outputs(model, inputs)
        with torch.no_grad():
            weight.copy_(saved)
        assert torch.allclose(gated, zeroed, atol=1e-6)
        assert not torch.allclose(gated, before, atol=1e-5)
    assert torch.equal(outputs(model, inputs), before)


@pytest.mark.parametrize("family", CONFIGS)
def test_removal_equals_closed_gates_and_leaves_no_weight(family):
    model = tiny_model(family)
    both = Units(ffn=True, ffn_groups=4, queries=True)
    anatomy, inputs = locate(model, units=both), probe_inputs(model)
    mask = anatomy.layout.mask([0, 1, 6, 9, 15])
    with masked(anatomy, mask):
        gated = outputs(model, inputs)
    remove(anatomy, mask)
    assert torch.allclose(outputs(model, inputs), gated, atol=1e-6)
    assert not any(piece.any() for piece in pieces(anatomy, mask))
    assert already_pruned(anatomy) == mask


def test_shared_keys_and_values_go_only_with_the_whole_group():
    model = tiny_model("llama")  # heads 0 and 1 share keys and values
    anatomy = locate(model, units=QUERIES)
    key = model.model.layers[0].self_attn.k_proj.weight
    width = anatomy.sites[0].row.width
    remove(anatomy, anatomy.layout.mask([0]))
    assert key[:width].any()
    assert not model.model.layers[0].self_attn.q_proj.weight[:width].any()
    remove(anatomy, anatomy.layout.mask([0, 1]))
    assert not key[:width].any()
    assert key[width:].any()


def test_the_output_bias_stays():
    model = tiny_model("bert")
    bias = model.bert.encoder.layer[0].attention.output.dense.bias
    with torch.no_grad():
        bias.fill_(0.5)
    remove(locate(model), locate(model).layout.mask([0, 1, 2]))
    assert (bias == 0.5).all()


def test_value_and_output_at_zero_stay_there_without_pinning():
    """Why both are zeroed: their gradients are then exactly zero."""
    model = tiny_model("bert")
    anatomy, inputs = locate(model), probe_inputs(model)
    mask = anatomy.layout.mask([2])
    remove(anatomy, mask)
    loss = nn.functional.cross_entropy(model(**inputs).logits, torch.tensor([0, 1]))
    loss.backward()
    site = anatomy.sites[0]
    for role in ("value", "output"):
        block = site.roles[role]
        grad = block.within(block.parameter.grad, 2)
        assert not grad.any()


def test_per_example_gates_act_on_their_own_example():
    model = tiny_model("bert")
    anatomy, inputs = locate(model), probe_inputs(model)
    values = torch.ones(2, anatomy.layout.units)
    values[1, 3] = 0
    with gates(anatomy, values):
        mixed = outputs(model, inputs)
    with masked(anatomy, anatomy.layout.mask([3])):
        closed = outputs(model, inputs)
    assert torch.allclose(mixed[0], outputs(model, inputs)[0], atol=1e-6)
    assert torch.allclose(mixed[1], closed[1], atol=1e-6)


def test_no_hook_remains_after_an_error():
    model = tiny_model("bert")
    anatomy, inputs = locate(model), probe_inputs(model)
    before = outputs(model, inputs)
    mask = anatomy.layout.mask([0, 5])
    with pytest.raises(RuntimeError, match="inside"), masked(anatomy, mask):
        raise RuntimeError("inside")
    assert torch.equal(outputs(model, inputs), before)
    assert not any(site.gate._forward_pre_hooks for site in anatomy.sites)


def test_check_gates_notices_a_module_that_does_not_run():
    model = tiny_model("bert")
    anatomy = locate(model)
    check_gates(anatomy, probe_inputs(model))
    attention = model.bert.encoder.layer[1].attention.output
    running = attention.dense
    attention.forward = lambda states, residual: attention.LayerNorm(running(states) + residual)
    attention.dense = nn.Linear(32, 32)  # found by the adapter, never run
    with pytest.raises(UserError, match="layer 1 changes nothing"):
        check_gates(locate(model), probe_inputs(model))


def test_unknown_architecture_names_what_was_looked_for():
    model = tiny_model("bert")
    model.config.model_type = "novel"
    with pytest.raises(UserError, match=r"novel.*query, key, value and output"):
        locate(model)
    assert locate(model, FAMILIES["bert"]).layout.units == 8


def test_an_adapter_file_describes_an_architecture(tmp_path):
    path = tmp_path / "adapter.toml"
    path.write_text(
        'layers = "encoder.layer"\nquery = "attention.self.query"\nkey = "attention.self.key"\n'
        'value = "attention.self.value"\noutput = "attention.output.dense"\n'
        'up = ["intermediate.dense"]\ndown = "output.dense"\n'
        'counts = ["attention.self.num_attention_heads", "attention.self.all_head_size"]\n'
    )
    assert read_adapter(path) == FAMILIES["bert"]
    path.write_text('layer = "encoder.layer"\n')
    with pytest.raises(UserError, match="layer"):
        read_adapter(path)


def test_an_adapter_of_wrong_types_or_to_no_projection(tmp_path):
    path = tmp_path / "adapter.toml"
    path.write_text('layers = "encoder.layer"\noutput = "o"\nup = 3\n')
    with pytest.raises(UserError, match="up must be a list"):
        read_adapter(path)
    for name, module in (("output", "attention.output"), ("query", "attention.self")):
        wrong = Adapter(**{**vars(FAMILIES["bert"]), name: module})
        with pytest.raises(UserError, match="is no Linear projection"):
            locate(tiny_model("bert"), wrong)


def test_a_wrong_adapter_is_an_error():
    wrong = Adapter(**{**vars(FAMILIES["bert"]), "output": "attention.nowhere"})
    with pytest.raises(UserError, match=r"no 'attention.nowhere'"):
        locate(tiny_model("bert"), wrong)


def test_mask_json_round_trip_and_version():
    layout = Layout((Row("head", 0, 3, 1, 2), Row("head", 1, 2, 1, 2), Row("ffn", 0, 2, 1, 4)))
    mask = layout.mask([1, 3, 6])
    assert mask.heads == ((True, False, True), (False, True))
    assert mask.ffn == ((True, False),)
    assert mask.pruned == (1, 3, 6)
    assert mask.pruned_heads == ((0, 1), (1, 0))
    assert HeadMask.from_json(json.dumps(mask.to_json())) == mask
    assert [layout.name(unit) for unit in mask.pruned] == ["0.1", "1.0", "0.ffn.1"]
    with pytest.raises(UserError, match="format"):
        HeadMask.from_json({"format": "headsweep.head-mask/0", "heads": []})
    with pytest.raises(UserError, match="not a head mask"):
        HeadMask.from_json("[1, 2]")


def test_a_mask_of_another_shape_is_an_error():
    anatomy = locate(tiny_model("bert"))
    with (
        pytest.raises(UserError, match="2 units for a model of 8"),
        masked(anatomy, HeadMask(((True, False),))),
    ):
        pass


def test_empties_a_row():
    assert HeadMask(((True, False), (False, False))).empties_a_row
    assert not HeadMask(((True, False), (False, True))).empties_a_row
