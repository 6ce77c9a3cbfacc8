"""Compact models: smaller, the same logits, and no surprise when they are loaded."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import headsweep
from conftest import CPU, Way, cleanse, sentences, tiny_model
from headsweep import FineTune, Gradient, HeadMask, UserError, purify
from headsweep.drafts import COMPACT
from headsweep.export.model_folder import fingerprint
from headsweep.model.mask import HEADS, Units
from test_groups import attention
from tiny_families import OLD_FALCON

NO_HEALING = FineTune(0)


def purified(family, tokenizer, mask, **changes):
    """A model of which exactly the units of a mask were pruned."""
    return purify(
        tiny_model(family, **changes), sentences(60), tokenizer=tokenizer, mask=mask,
        max_drop=0.9, heal=NO_HEALING, progress=False,
    )  # fmt: skip


def groups(*rows):
    return HeadMask((), groups=tuple(tuple(map(bool, row)) for row in rows))


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


IDS = torch.randint(5, 100, (3, 9), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma2"])
def test_as_many_groups_in_every_layer_load_plainly(family, tokenizer, tmp_path):
    """One of two key/value groups in each layer: a plain model of half as many heads."""
    done = purified(family, tokenizer, groups([1, 0], [0, 1]))
    made = headsweep.compact(done.save(tmp_path / "whole"), tmp_path / "out")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert made.plain
    assert (plain.config.num_attention_heads, plain.config.num_key_value_heads) == (2, 1)
    assert torch.allclose(logits(plain, IDS), logits(done.model, IDS), atol=1e-5)
    own = sum(p.numel() for p in plain.parameters())
    whole = sum(p.numel() for p in done.model.parameters())
    pruned = sum(  # half of what attention has, counted in the whole model
        p.numel() // 2
        for layer in (0, 1)
        for name, p in attention(done.model, layer).named_parameters()
        if "norm" not in name
    )
    assert (made.parameters_before, made.parameters) == (whole, own)
    assert own == whole - pruned
    assert made.bytes < made.bytes_before
    assert torch.equal(logits(headsweep.load(tmp_path / "out"), IDS), logits(plain, IDS))
    assert headsweep.inspect(tmp_path / "out").heads == 4  # it is a model like any other


@pytest.mark.parametrize(
    ("family", "mask"),
    [
        ("llama", groups([1, 1], [0, 1])),
        ("gemma2", groups([1, 0], [1, 1])),
        ("llama", HeadMask(((True, False, True, True), (False, False, True, False)))),
        ("bert", HeadMask(((True, False, True, True), (False, False, True, False)))),
        ("bert", HeadMask(((True, False, True, True),) * 2)),  # a head's width follows from 32 / 4
        ("distilbert", HeadMask(((True, False, False, True), (True,) * 4))),
    ],
)
def test_other_numbers_in_other_layers_load_with_headsweep(family, mask, tokenizer, tmp_path):
    done = purified(family, tokenizer, mask)
    whole = done.save(tmp_path / "whole")
    made = done.compact(tmp_path / "out")
    assert not made.plain
    assert made.parameters < made.parameters_before
    sizes = [
        sum(tensor.nbytes for tensor in load_file(place / "model.safetensors").values())
        for place in (whole, tmp_path / "out")
    ]
    assert sizes[0] - sizes[1] == 4 * (made.parameters_before - made.parameters) > 0
    model = headsweep.load(tmp_path / "out")
    assert torch.allclose(logits(model, IDS), logits(done.model, IDS), atol=1e-5)
    assert sum(p.numel() for p in model.parameters()) == made.parameters
    with pytest.raises(RuntimeError):  # plain loading says so, it does not make up weights
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    with pytest.raises(UserError, match="of shapes that its configuration does not say"):
        headsweep.inspect(tmp_path / "out")
    assert torch.equal(fingerprint(headsweep.load(whole)), fingerprint(done.model))
    (tmp_path / "out" / COMPACT).unlink()
    with pytest.raises(UserError, match="the model cannot be used"):
        headsweep.load(tmp_path / "out")


def test_a_compact_model_is_judged_and_exported_as_the_whole_one(tokenizer, tmp_path, csv_file):
    done = purified("bert", tokenizer, HeadMask(((True, False, True, True), (False, True) * 2)))
    whole, out = done.save(tmp_path / "whole"), tmp_path / "out"
    assert not done.compact(out).plain
    found = [
        headsweep.evaluate(folder, csv_file, suspect=whole, device="cpu", progress=False)
        for folder in (whole, out)
    ]
    assert found[0].accuracy == found[1].accuracy
    assert found[1].agreement.value == 1
    with pytest.raises(UserError, match="is measured from its folder") as told:
        headsweep.evaluate(headsweep.load(out), csv_file, tokenizer=tokenizer, progress=False)
    assert repr(str(out)) in told.value.fix
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed ([onnx])")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed ([onnx])")
    from test_onnx import plainly, through_onnx

    headsweep.export_onnx(out, tmp_path / "onnx", progress=False)
    texts = sentences(9, seed=6).texts
    assert abs(through_onnx(tmp_path / "onnx", texts) - plainly(whole, texts)).max() < 1e-5


def test_neurons_go_too(tokenizer, tmp_path):
    way = Way(max_drop=0.4, heal=NO_HEALING, runtime=CPU, units=Units(ffn=True))
    done = cleanse(tiny_model("llama"), sentences(60), Gradient(step=1), way, tokenizer=tokenizer)
    made = done.compact(tmp_path / "out")
    model = headsweep.load(tmp_path / "out")
    assert torch.allclose(logits(model, IDS), logits(done.model, IDS), atol=1e-5)
    for layer, row in enumerate(done.mask.ffn):
        assert model.model.layers[layer].mlp.up_proj.out_features == 64 * sum(row) // len(row)
    assert made.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("family", "gone"), [("llama", [1]), ("gpt2", [1, 4, 5, 7])])
def test_a_generator_writes_the_same(family, gone, tokenizer, tmp_path):
    """Tied embeddings, a cache of keys and values of other sizes in other layers, and none."""
    from headsweep.export.compact import compact_model
    from headsweep.model.loading import Reading, prepare
    from headsweep.model.removal import remove
    from test_generation import generator

    suspect = prepare(
        generator(family, tie_word_embeddings=True), tokenizer, Reading(units=HEADS, task=None)
    )
    mask = suspect.anatomy.layout.mask(gone)
    remove(suspect.anatomy, mask)
    compact_model(suspect, mask, tmp_path / "out", overwrite=False)
    model = headsweep.load(tmp_path / "out")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    ids = IDS[:1, :5]
    asked = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    wanted = suspect.model.generate(ids, **asked)
    assert torch.equal(model.generate(ids, **asked), wanted)
    assert torch.equal(model.generate(ids, **asked, use_cache=False), wanted)
    with pytest.raises(RuntimeError):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")


UNEVEN = HeadMask(((True, False, True, True), (False, False, True, False)))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt2", {}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("openai-gpt", {}),
        ("mpnet", {}),
        ("deberta-v2", {}),
        ("deberta-v2", {"share_att_key": True, "position_buckets": 4}),
        ("deberta", {}),
        ("modernbert", {}),
        ("rembert", {}),
        ("luke", {}),
        ("persimmon", {}),
        ("xlm", {}),
    ],
)
def test_projections_in_one_and_heads_that_are_counted(family, changes, tokenizer, tmp_path):
    """Alone and in padded batches; fewer numbers by the rows and columns of the pruned heads."""
    done = purified(family, tokenizer, UNEVEN, **changes)
    whole, made = done.save(tmp_path / "whole"), done.compact(tmp_path / "out")
    model, plain = headsweep.load(tmp_path / "out"), headsweep.load(whole)
    real = torch.ones_like(IDS)
    real[1, 4:] = real[2, 7:] = 0
    ids = IDS.masked_fill(real == 0, model.config.pad_token_id)
    with torch.inference_mode():
        for rows in (slice(3), slice(1), slice(1, 2)):
            found, wanted = (
                one(input_ids=ids[rows], attention_mask=real[rows]).logits for one in (model, plain)
            )
            assert torch.allclose(found, wanted, atol=1e-5)
    assert not made.plain
    sizes = [sum(p.numel() for p in one.parameters()) for one in (plain, model)]
    assert sizes == [made.parameters_before, made.parameters]
    names, pruned = dict(model.named_parameters()), 0
    for name, parameter in plain.named_parameters():
        pruned += parameter.numel() - names[name].numel()
        cut_out = parameter.numel() / names[name].numel()
        assert cut_out in (1, 4 / 3, 4), name  # three heads of four, one of four, or all
    assert pruned == sizes[0] - sizes[1] >= 4 * 4 * 8 * 32
    files = [(place / "model.safetensors").stat().st_size for place in (whole, tmp_path / "out")]
    assert files[1] < files[0]
    with pytest.raises(RuntimeError):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")


def test_the_bias_of_positions_is_that_of_the_heads_left(tokenizer, tmp_path):
    """MPNet computes one for all layers: each layer reads its own heads of it, also when copied."""
    done = purified("mpnet", tokenizer, UNEVEN, max_position_embeddings=400)
    done.compact(tmp_path / "out")
    ids = torch.randint(5, 100, (2, 300), generator=torch.Generator().manual_seed(2))
    wanted, model = logits(done.model, ids), headsweep.load(tmp_path / "out")
    assert torch.allclose(logits(model, ids), wanted, atol=1e-5)
    assert torch.allclose(logits(copy.deepcopy(model), ids), wanted, atol=1e-5)
    assert torch.allclose(logits(pickle.loads(pickle.dumps(model)), ids), wanted, atol=1e-5)
    with torch.no_grad():  # of the first layer the heads 0, 2 and 3 are left, of the second 2
        model.base_model.encoder.relative_attention_bias.weight[:, 1] += 9.0
        assert torch.allclose(logits(model, ids), wanted, atol=1e-5)
        model.base_model.encoder.relative_attention_bias.weight[:9, 3] += 9.0
        assert not torch.allclose(logits(model, ids), wanted, atol=1e-3)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bloom", {}),
        ("big_bird", {}),
        ("falcon", OLD_FALCON | {"alibi": True, "multi_query": False}),
    ],
)
def test_what_cannot_be_cut_is_refused(family, changes, tokenizer, tmp_path):
    done = purified(family, tokenizer, HeadMask(((True, False, True, True),) * 2), **changes)
    with pytest.raises(UserError, match="cannot be made compact"):
        done.compact(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_single_heads_of_groups_that_stay_cannot_go(tokenizer, tmp_path):
    done = purified("llama", tokenizer, HeadMask(((True, False, True, True),) * 2))
    with pytest.raises(UserError, match="nothing to cut out"):
        done.compact(tmp_path / "out")


def edited(folder):
    """Return what a compact folder holds, and what ``load`` says when its record is changed."""
    record, weights = folder / "headsweep-compact.json", folder / "model.safetensors"
    form, tensors = json.loads(record.read_text()), load_file(weights)

    def told(**changes):
        record.write_text(json.dumps(form | changes))
        with pytest.raises(UserError) as said:
            headsweep.load(folder)
        return said.value.what

    return form, tensors, weights, told


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("gpt2", "transformer.h.0.attn.c_attn.weight"),
        ("mpnet", "mpnet.encoder.layer.0.attention.attn.o.weight"),
    ],
)
def test_what_a_folder_says_of_the_layers_is_checked(family, name, tokenizer, tmp_path):
    """Edited by hand: another mask, other numbers, other weights."""
    purified(family, tokenizer, UNEVEN).compact(tmp_path / "out")
    form, tensors, weights, told = edited(tmp_path / "out")

    swapped = HeadMask(UNEVEN.heads[::-1])
    assert "not as its mask says" in told(mask=swapped.to_json())
    for counts in ([], ["attn.head_dim"], ["attention.attn.attention_head_size", "training"]):
        assert told(adapter=form["adapter"] | {"counts": counts})
    assert "counts must be a list" in told(adapter=form["adapter"] | {"counts": "attn.num_heads"})
    if family == "mpnet":  # its bias of positions would be another head's
        other = HeadMask(((False, True, True, True), UNEVEN.heads[1]))
        assert "logits are not those noted" in told(mask=other.to_json())
        assert told(adapter=form["adapter"] | {"biases": []})
        assert told(adapter=form["adapter"] | {"biases": ["attention.attn.hidden_states"]})
    save_file(tensors | {name: tensors[name] * 1.5}, weights, {"format": "pt"})
    assert "logits are not those noted" in told()
    save_file(tensors | {name: tensors[name][:5]}, weights, {"format": "pt"})
    assert name in told()


def test_damaged_folders_are_a_line(tokenizer, tmp_path):
    done = purified("llama", tokenizer, groups([1, 1], [0, 1]))
    done.save(tmp_path / "whole")
    done.compact(tmp_path / "out")
    _, tensors, weights, told = edited(tmp_path / "out")

    assert "logits are not those noted" in told(fingerprint=[[0.0, 1.0]] * 2)
    assert "logits are not those noted" in told(fingerprint=[])
    assert "no table of logits" in told(fingerprint=["x"])
    assert "not of the format" in told(format="headsweep.compact/9")
    assert "mask: missing" in told(mask=None)
    assert "the mask is another model's" in told(mask=groups([1, 1, 1], [0, 1, 1]).to_json())
    assert "missing or misshapen" in told(mask=groups([0, 1], [1, 1]).to_json())
    assert "model" in told(plain=True)
    name = "model.layers.1.self_attn.k_proj.weight"
    save_file(tensors | {name: tensors[name] + 0.5}, weights, {"format": "pt"})
    assert "logits are not those noted" in told()
    save_file({n: t for n, t in tensors.items() if n != name}, weights, {"format": "pt"})
    assert name in told()


def test_whole_folders_that_were_changed_are_not_loaded_as_if_they_were_not(tokenizer, tmp_path):
    """Missing tensors would be drawn at random, in silence; others would answer otherwise."""
    done = purified("llama", tokenizer, groups([1, 0], [0, 1]))
    whole = done.save(tmp_path / "whole")
    model = headsweep.load(whole)
    assert model.name_or_path == str(whole)
    assert torch.equal(logits(model, IDS), logits(done.model, IDS))
    tensors = load_file(whole / "model.safetensors")
    name = "score.weight"
    for changed, said in (
        ({n: t for n, t in tensors.items() if n != name}, f"lacks tensors: {name}"),
        (tensors | {name: tensors[name].flip(0)}, "logits are not those noted"),
    ):
        save_file({n: t.contiguous() for n, t in changed.items()}, whole / "model.safetensors",
                  {"format": "pt"})  # fmt: skip
        with pytest.raises(UserError, match=said):
            headsweep.load(whole)
        with pytest.raises(UserError):
            headsweep.compact(whole, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_it_is_for_is_heeded_of_an_uneven_one_too(tokenizer, tmp_path):
    done = purified("llama", tokenizer, groups([1, 1], [0, 1]))
    done.compact(tmp_path / "out")
    data = sentences(20)
    for task, said in (("nonsense", "unknown value of --task"), ("generation", "a model for")):
        with pytest.raises(UserError, match=said):
            headsweep.evaluate(tmp_path / "out", data, task=task, device="cpu", progress=False)


def test_weights_that_came_back_are_not_cut_away(tokenizer, tmp_path):
    done = purified("llama", tokenizer, groups([1, 1], [0, 1]))
    with torch.no_grad():
        attention(done.model, 1).q_proj.weight[0, 0] = 1.0
    with pytest.raises(UserError, match="have weights left"):
        done.compact(tmp_path / "out")


def test_the_command_says_how_much_is_left(tokenizer, tmp_path, capsys):
    from headsweep.cli import main

    done = purified("llama", tokenizer, groups([1, 0], [0, 1]))
    whole = done.save(tmp_path / "whole")

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, words)))
        return stop.value.code, capsys.readouterr()

    code, said = run("compact", whole, "--out", tmp_path / "out")
    assert code == 0
    assert "parameters are left" in said.out
    assert "loads in plain from_pretrained" in said.out
    code, said = run("compact", whole, "--out", tmp_path / "out")
    assert (code, "exists already" in said.err) == (2, True)
    code, said = run("compact", whole, "--out", tmp_path / "out", "--overwrite", "--json")
    assert (code, json.loads(said.out)["plain"]) == (0, True)
    code, said = run("compact", tmp_path / "out", "--out", tmp_path / "other")
    assert (code, "a compact model has no evidence" in said.err) == (2, True)
