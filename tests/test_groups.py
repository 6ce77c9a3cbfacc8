"""Key/value groups as units: a key/value head goes with all query heads that share it, or stays.

Every right value is had another way: weights zeroed by hand in plain transformers, attention that
transformers gives, gradients of an ordinary backward pass.
"""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import headsweep
from conftest import CPU, Way, cleanse, sentences, tiny_model
from headsweep import FineTune, Gradient, HeadMask, UserError, purify
from headsweep.export.model_folder import fingerprint
from headsweep.export.verify import read_manifest, verify
from headsweep.model.anatomy import locate
from headsweep.model.gates import masked
from headsweep.model.mask import HEADS, QUERIES, Layout, Row, Units, rows_by_kind, units_of
from headsweep.model.padding import probe_inputs
from headsweep.model.removal import already_pruned, left_of, remove
from headsweep.prune.importance import (
    attention_variance,
    dormancy,
    gate_gradients,
    gate_importance,
    key_gradient_importance,
)
from headsweep.prune.strategies.bayesian import Bayesian
from test_importance import view_of

GROUPED = ["llama", "mistral", "qwen2", "qwen3", "gemma2"]
"""Each with four query heads over two key/value heads in each of two layers."""
WAY = Way(max_drop=0.3, heal=FineTune(1, 1e-3), runtime=CPU)


def answer(model, inputs):
    with torch.inference_mode():
        return model(**inputs).logits.clone()


def attention(model, layer):
    return model.model.layers[layer].self_attn


@pytest.mark.parametrize("family", GROUPED)
def test_a_closed_group_is_its_query_heads_zeroed_by_hand(family):
    model = tiny_model(family)
    anatomy, inputs = locate(model), probe_inputs(model)
    whole, width = answer(model, inputs), attention(model, 0).head_dim
    assert [(row.kind, row.units, row.queries) for row in anatomy.layout.rows] == [
        ("group", 2, 2)
    ] * 2
    for unit in range(4):
        with masked(anatomy, anatomy.layout.mask([unit])):
            gated = answer(model, inputs)
        layer, group = divmod(unit, 2)
        weight = attention(model, layer).o_proj.weight
        saved = weight.detach().clone()
        with torch.no_grad():
            for head in (2 * group, 2 * group + 1):
                weight[:, head * width : (head + 1) * width] = 0
        by_hand = answer(model, inputs)
        with torch.no_grad():
            weight.copy_(saved)
        assert torch.allclose(gated, by_hand, atol=1e-6)
        assert not torch.allclose(gated, whole, atol=1e-5)


@pytest.mark.parametrize("family", GROUPED)
def test_removal_takes_the_rows_of_query_key_and_value(family):
    """What is zero is counted in plain transformers: of layer 1 the second half of everything."""
    model = tiny_model(family)
    anatomy, inputs = locate(model), probe_inputs(model)
    mask = anatomy.layout.mask([3])
    with masked(anatomy, mask):
        gated = answer(model, inputs)
    remove(anatomy, mask)
    assert torch.allclose(answer(model, inputs), gated, atol=1e-6)
    assert (already_pruned(anatomy), left_of(anatomy, mask)) == (mask, [])
    own, other = attention(model, 1), attention(model, 0)
    for name in ("q_proj", "k_proj", "v_proj"):
        live = getattr(own, name).weight.abs().sum(1) > 0
        half = len(live) // 2
        assert live[:half].all()
        assert not live[half:].any()
        bias = getattr(own, name).bias
        assert bias is None or not bias[half:].any()
        assert (getattr(other, name).weight.abs().sum(1) > 0).all()
    live = own.o_proj.weight.abs().sum(0) > 0
    assert live[: len(live) // 2].all()
    assert not live[len(live) // 2 :].any()


def both(tiny, family="llama", **changes):
    """Views of the same model whose units are groups, and single query heads."""
    groups, queries = (view_of(tiny(family, units=u, **changes)) for u in (HEADS, QUERIES))
    return groups, queries


def test_the_gradient_at_a_group_is_the_sum_over_its_query_heads(tiny):
    groups, queries = both(tiny)
    batch = groups.train.batch(range(6))
    own, single = (gate_gradients(view.anatomy, batch) for view in (groups, queries))
    assert torch.allclose(own, single.unflatten(1, (4, 2)).sum(2), atol=1e-6)
    size = torch.zeros(4)
    for one in groups.train.batches(16):
        size += gate_gradients(queries.anatomy, one).unflatten(1, (4, 2)).sum(2).abs().sum(0)
    size = (size / len(groups.train)).unflatten(0, (2, 2))
    expected = (size / size.norm(dim=1, keepdim=True)).flatten()
    assert torch.allclose(gate_importance(groups), expected, atol=1e-5)


def test_the_key_score_of_a_group_is_of_the_rows_of_its_key(tiny):
    suspect = tiny("llama")
    view = view_of(suspect, 8)
    scores = key_gradient_importance(view)
    batch = view.train.batches(16)[0]
    nn.functional.cross_entropy(suspect.model(**batch.inputs).logits, batch.labels).backward()
    grad = attention(suspect.model, 1).k_proj.weight.grad  # [2 keys * 8, 32]
    assert torch.allclose(scores[2:], torch.stack([grad[:8].norm(), grad[8:].norm()]), rtol=1e-4)


def test_attention_variance_of_a_group_is_the_mean_over_its_query_heads(tiny):
    """From the attention that transformers gives, whole, text by text."""
    suspect = tiny("llama")
    view, model = view_of(suspect), suspect.model
    model.set_attn_implementation("eager")
    wanted = torch.zeros(2, 4)
    for number in range(len(view.train)):
        batch = view.train.batch([number])
        tokens = int(batch.inputs["attention_mask"].sum())
        with torch.no_grad():
            found = model(**batch.inputs, output_attentions=True).attentions
        for layer, weights in enumerate(found):
            row = weights[0, :, tokens - 1, :tokens]
            wanted[layer] += row.var(-1, unbiased=False) / len(view.train)
    model.set_attn_implementation("sdpa")
    assert torch.allclose(
        attention_variance(view), wanted.unflatten(1, (2, 2)).mean(2).flatten(), atol=1e-7
    )


def test_dormancy_and_uncertainty_are_of_all_outputs_of_a_group(tiny):
    groups, queries = both(tiny)
    single = dormancy(queries).unflatten(0, (4, 2))
    assert torch.allclose(dormancy(groups), single.mean(1), atol=1e-6)
    with torch.no_grad():  # a query head that gives nothing leaves a group to its other one
        for view in (groups, queries):
            attention(view.anatomy.model, 0).q_proj.weight[8:16] = 0
            attention(view.anatomy.model, 0).o_proj.weight[:, 8:16] = 0
    spread = Bayesian(passes=3, rate=0.1).uncertainty(groups)
    assert spread.shape == (4,)
    assert (spread > 0).all()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2"])
def test_a_purified_model_of_groups_loads_plainly(family, tokenizer, tmp_path):
    done = cleanse(tiny_model(family), sentences(60), Gradient(step=1), WAY, tokenizer=tokenizer)
    assert done.verified, done.checks
    assert done.mask.groups
    assert done.mask.heads == ()
    assert done.mask.pruned_groups
    assert done.manifest["heal"]["compact"] is True
    out = done.save(tmp_path / "out")
    plain = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert torch.allclose(fingerprint(plain), fingerprint(done.model), atol=1e-5)
    assert [check for check in verify(out) if not check.passed] == []
    manifest = read_manifest(out)
    assert manifest["mask"]["format"] == "headsweep.head-mask/2"
    assert manifest["pruned_units"] == [f"{i}.kv.{j}" for i, j in done.mask.pruned_groups]
    assert manifest["units"] == 4
    gone = done.mask.pruned_groups[0]
    width = attention(plain, gone[0]).head_dim
    for name in ("k_proj", "v_proj"):
        rows = getattr(attention(plain, gone[0]), name).weight
        assert not rows[gone[1] * width : (gone[1] + 1) * width].any()


def test_single_query_heads_are_an_option(tokenizer, tmp_path):
    done = purify(
        tiny_model("llama"), sentences(60), tokenizer=tokenizer, units="queries", max_drop=0.3,
        heal=FineTune(0), progress=False, set={"step": 1},
    )  # fmt: skip
    assert (len(done.mask.heads[0]), done.mask.groups) == (4, ())
    assert done.manifest["units"] == 8
    assert done.manifest["mask"]["format"] == "headsweep.head-mask/1"
    assert all(check.passed for check in verify(done.save(tmp_path / "out")))


OLD = {"format": "headsweep.head-mask/1", "heads": [[0, 1, 1, 1], [1, 1, 0, 0]]}
"""As every version has written it: query head 0 of layer 0, and a whole group of layer 1."""


def test_an_old_mask_of_single_heads_means_what_it_meant(tokenizer, tmp_path):
    file = tmp_path / "mask.json"
    file.write_text(json.dumps(OLD))
    model = tiny_model("llama")
    done = purify(
        model, sentences(60), tokenizer=tokenizer, mask=file, max_drop=0.9, heal=FineTune(0),
        progress=False,
    )  # fmt: skip
    assert (done.manifest["mask"], done.verified) == (OLD, True)
    assert done.manifest["pruned_units"] == ["0.0", "1.2", "1.3"]
    out = done.save(tmp_path / "out")
    assert all(check.passed for check in verify(out))
    plain = AutoModelForSequenceClassification.from_pretrained(out)
    assert attention(plain, 0).v_proj.weight[:8].any()  # shared with head 1, which stays
    assert not attention(plain, 1).v_proj.weight[8:].any()  # nobody is left who shares it
    found = headsweep.inspect(out)
    assert [layer.pruned for layer in found.layers] == [(0,), (2, 3)]
    assert [layer.pruned_groups for layer in found.layers] == [(), (1,)]


def test_inspect_counts_heads_and_groups(tokenizer):
    found = headsweep.inspect(tiny_model("qwen2"), tokenizer=tokenizer)
    layer = found.layers[0]
    assert (layer.heads, layer.key_value_heads, layer.head_width) == (4, 2, 8)
    assert found.heads == 8


def test_a_group_mask_is_kept_in_training_that_goes_on():
    model = tiny_model("llama")
    mask = HeadMask((), groups=((True, False), (True, True)))
    callback = headsweep.PrunedHeadsCallback(mask)
    callback.on_train_begin(None, None, None, model=model)
    assert not attention(model, 0).k_proj.weight[8:].any()
    assert attention(model, 0).k_proj.weight[:8].any()
    callback.on_train_end(None, None, None)


def test_the_json_form_says_which_unit_it_holds():
    layout = Layout(
        (Row("group", 0, 3, 1, 8, 2), Row("group", 1, 2, 1, 8, 2), Row("ffn", 0, 2, 1, 4))
    )
    mask = layout.mask([1, 3, 6])
    form = mask.to_json()
    assert form == {
        "format": "headsweep.head-mask/2", "groups": [[1, 0, 1], [0, 1]], "ffn": [[1, 0]],
    }  # fmt: skip
    assert HeadMask.from_json(json.dumps(form)) == mask
    assert [layout.name(unit) for unit in mask.pruned] == ["0.kv.1", "1.kv.0", "0.ffn.1"]
    assert (mask.units, mask.names) == (Units(True, True, 2), "key/value groups and FFN groups")
    assert rows_by_kind(form) == {"group": [[1, 0, 1], [0, 1]], "ffn": [[1, 0]]}
    assert layout.per_query(torch.arange(7))[1].tolist() == [3, 3, 4, 4]
    heads = HeadMask.from_json(OLD)
    assert (heads.units, heads.names, heads.to_json()) == (QUERIES, "heads", OLD)
    assert heads.fits(locate(tiny_model("llama"), units=QUERIES).layout)
    assert not HeadMask(((True,) * 2,) * 2).fits(locate(tiny_model("llama")).layout)  # in kind


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (OLD | {"groups": [[1, 1]] * 2}, "both query heads and key/value groups"),
        (OLD | {"format": "headsweep.head-mask/2"}, "not a head mask: 'groups'"),
        ({"format": "headsweep.head-mask/1", "groups": [[1, 0]] * 2}, "not a head mask: 'heads'"),
        (
            {"format": "headsweep.head-mask/1", "heads": [], "groups": [[1, 0]] * 2},
            "of headsweep.head-mask/1 with groups",
        ),
        ({"format": "headsweep.head-mask/2", "groups": [[0, 2]] * 2}, "every entry is 0 or 1"),
        ({"format": "headsweep.head-mask/3", "groups": []}, "a head mask of format"),
    ],
)
def test_a_mask_that_mixes_units_is_refused(form, told):
    with pytest.raises(UserError, match=told):
        HeadMask.from_json(form)


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ([[1, 0]] * 3, "6 key/value groups in 3 rows, the model has 4 key/value groups in 2 rows"),
        ([[1, 0, 1, 1]] * 2, "8 key/value groups in 2 rows, the model has 4"),
        ([[], []], "0 key/value groups in 2 rows"),
        ([[0, 0], [1, 1]], "leaves a layer without"),
    ],
)
def test_a_group_mask_that_does_not_fit_is_refused(groups, told, tokenizer, tmp_path):
    file = tmp_path / "mask.json"
    file.write_text(json.dumps({"format": "headsweep.head-mask/2", "groups": groups}))
    with pytest.raises(UserError, match=told):
        purify(
            tiny_model("llama"), sentences(60), tokenizer=tokenizer, mask=file, max_drop=0.9,
            heal=FineTune(0), progress=False,
        )  # fmt: skip


def test_a_group_mask_is_not_for_a_model_of_plain_heads(tokenizer, tmp_path):
    mask = HeadMask((), groups=((True, False, True, True),) * 2)
    with pytest.raises(UserError, match="8 key/value groups in 2 rows, the model has 8 heads"):
        purify(
            tiny_model("bert"), sentences(60), tokenizer=tokenizer, mask=mask, max_drop=0.9,
            heal=FineTune(0), progress=False,
        )  # fmt: skip


def test_where_one_key_serves_all_single_heads_are_the_units():
    anatomy = locate(tiny_model("gemma2", num_key_value_heads=1))
    assert [(row.kind, row.units, row.group) for row in anatomy.layout.rows] == [("head", 4, 4)] * 2
    assert ["single query heads are the units" in note for note in anatomy.notes] == [True]
    plain = locate(tiny_model("llama", num_key_value_heads=4))
    assert [(row.kind, row.units, row.group) for row in plain.layout.rows] == [("head", 4, 1)] * 2
    assert plain.notes == ()


def test_what_units_can_be_asked_for():
    assert units_of("queries,ffn:4") == Units(True, True, 4, queries=True)
    assert (units_of("heads"), units_of("queries")) == (HEADS, QUERIES)
    with pytest.raises(UserError, match="two ways to count"):
        units_of("heads,queries")
    with pytest.raises(UserError, match="heads have no groups"):
        units_of("queries:3")


def test_a_generator_goes_through_by_groups(tokenizer, tmp_path):
    from test_generation import generator

    model = generator("llama")
    mask = locate(model).layout.mask([1, 2])
    remove(locate(model), mask)
    model.save_pretrained(tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert already_pruned(locate(plain)) == mask
