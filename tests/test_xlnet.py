"""XLNet, whose attention is computed from bare parameters and whose classifier reads the last place.

Against plain transformers with a tokenizer that is laid out as XLNet's own: padding on the left, a
token behind the text that the classifier reads, with a token type of its own.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections import Counter
from dataclasses import replace

import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer, XLNetLMHeadModel

from conftest import CPU, Way, cleanse, sentences, tiny_model
from headsweep.cli import main
from headsweep.errors import UserError
from headsweep.heal.fine_tune import FineTune
from headsweep.measure.accuracy import logits
from headsweep.model.anatomy import locate
from headsweep.model.attention_rows import attention_rows
from headsweep.model.families import FAMILIES
from headsweep.model.gates import gates, masked
from headsweep.model.loading import Reading, load_suspect, prepare
from headsweep.model.mask import HEADS, Units
from headsweep.model.padding import probe_inputs
from headsweep.prune.importance import gate_gradients
from headsweep.prune.strategies.dormant import Dormant
from headsweep.prune.strategies.gradient import Gradient
from headsweep.prune.strategies.sparsify import Sparsify
from headsweep.task.examples import encode
from headsweep.texts.split import Split
from test_plain import save, variant


def own_layout(tokenizer, side="left"):
    """The tokenizer, with texts laid out as XLNet's own lays them out."""
    other = variant(tokenizer, side=side)
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 [SEP]:0 [CLS]:2",
        pair="$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return other


def answer(model, inputs):
    with torch.inference_mode():
        return model(**inputs).logits.clone()


def alone(folder, split):
    """Logits of plain transformers, one text at a time, with the types that the tokenizer gives."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = (
        zip(split.texts, split.pairs, strict=True) if split.pairs else ((t,) for t in split.texts)
    )
    return torch.cat([answer(model, tokenizer(*text, return_tensors="pt")) for text in texts])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("paired", [False, True])
def test_xlnet_answers_as_plain_transformers(side, paired, tokenizer, tmp_path):
    split = sentences(40, seed=3)
    if paired:
        split = Split(split.texts, split.labels, split.texts[::-1])
    folder = save(tmp_path / "model", "xlnet", own_layout(tokenizer, side))
    plain, suspect = alone(folder, split), load_suspect(folder, CPU)
    encoded = encode(split, suspect, 48)
    assert {kind for row in encoded.kinds for kind in row} == {0, 2} | ({1} if paired else set())
    for size in (1, 7, 40):
        found = logits(suspect.anatomy, encoded, replace(CPU, batch_size=size))
        assert torch.allclose(found, plain, atol=1e-5)
    untyped = logits(suspect.anatomy, replace(encoded, kinds=()), CPU)
    assert not torch.allclose(untyped, plain, atol=1e-4)


def test_what_is_saved_is_a_plain_xlnet(tokenizer, tmp_path):
    """The whole job: what it gives loads without headsweep and reads batches padded on the left."""
    folder = save(tmp_path / "suspect", "xlnet", own_layout(tokenizer))
    before = AutoModelForSequenceClassification.from_pretrained(folder)
    split = sentences(60)
    done = cleanse(folder, split, Gradient(step=1), Way(max_drop=0.4, runtime=CPU))
    assert done.verified, done.checks
    assert done.mask.pruned
    out = done.save(tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["architectures"] == [
        "XLNetForSequenceClassification"
    ]
    read = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert read.state_dict().keys() == before.state_dict().keys()
    batch = AutoTokenizer.from_pretrained(out)(list(split.texts), padding=True, return_tensors="pt")
    plain = alone(out, split)
    assert torch.allclose(answer(read, batch), plain, atol=1e-5)
    assert torch.allclose(answer(done.model, batch), plain, atol=1e-5)
    for layer, head in done.mask.pruned_heads:
        attention = read.transformer.layer[layer].rel_attn
        for name in ("q", "k", "v", "o", "r"):
            assert not getattr(attention, name)[:, head].any()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_gates_of_its_own(again, tokenizer):
    model = tiny_model("xlnet")
    inputs, anatomy = probe_inputs(model), locate(model)
    other = locate(again(model))
    mask = anatomy.layout.mask([0, 5])
    whole = answer(model, inputs)
    with masked(anatomy, mask):
        gated = answer(model, inputs)
        assert torch.equal(answer(other.model, inputs), whole)
    with masked(other, mask):
        assert torch.equal(answer(other.model, inputs), gated)
    assert not torch.allclose(gated, whole, atol=1e-4)
    assert len(model.transformer._forward_hooks) == len(other.model.transformer._forward_hooks) == 1


def test_every_text_has_gates_of_its_own():
    model = tiny_model("xlnet")
    inputs, anatomy = probe_inputs(model, rows=3), locate(model)
    values = torch.ones(3, anatomy.layout.units)
    values[1, 2] = 0
    whole = answer(model, inputs)
    with gates(anatomy, values):
        found = answer(model, inputs)
    with masked(anatomy, anatomy.layout.mask([2])):
        closed = answer(model, inputs)
    assert torch.allclose(found[[0, 2]], whole[[0, 2]], atol=1e-6)
    assert torch.allclose(found[1], closed[1], atol=1e-6)
    assert not torch.allclose(closed[1], whole[1], atol=1e-4)


@pytest.mark.parametrize("units", [HEADS, Units(ffn=True)])
def test_a_batch_of_as_many_texts_as_tokens_is_no_other(units, tokenizer):
    """XLNet's own numbers lie token first: in a square batch nothing but the figures would tell."""
    suspect = prepare(tiny_model("xlnet"), own_layout(tokenizer), Reading(units=units))
    anatomy, encoded = suspect.anatomy, encode(sentences(60, seed=5), suspect, 24)
    lengths = Counter(map(len, encoded.ids))
    size = next(n for n, count in lengths.items() if count >= n)
    batch = encoded.batch([i for i, row in enumerate(encoded.ids) if len(row) == size][:size])
    assert batch.inputs["input_ids"].shape == (size, size)
    together = gate_gradients(anatomy, batch)
    alone = torch.cat([gate_gradients(anatomy, one) for one in batch.split(1)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert float(alone.std(0).max()) > 1e-5


@pytest.mark.parametrize("strategy", [Gradient(step=1), Sparsify(epochs=1), Dormant()])
def test_ffn_neurons_are_scored_and_pruned_whatever_the_batch(strategy, tokenizer, tmp_path):
    folder = save(tmp_path / "suspect", "xlnet", own_layout(tokenizer))
    masks = set()
    for size in (1, 16):
        way = Way(max_drop=0.4, runtime=replace(CPU, batch_size=size), heal=FineTune(epochs=0))
        done = cleanse(folder, sentences(60), strategy, replace(way, units=Units(ffn=True)))
        assert done.verified, done.checks
        masks.add(done.mask)
    assert isinstance(strategy, Sparsify) or len(masks) == 1  # it trains, in batches


@pytest.mark.parametrize("kind", ["last", "cls_index", "first"])
def test_whatever_place_it_reads_padding_does_not_move_it(kind, tokenizer, tmp_path):
    split = sentences(40, seed=3)
    folder = save(tmp_path / "model", "xlnet", own_layout(tokenizer), summary_type=kind)
    suspect = load_suspect(folder, CPU)
    assert suspect.doubts == ()
    if kind != "first":  # which transformers reads of the padding, where that is on the left
        found = logits(suspect.anatomy, encode(split, suspect, 48), replace(CPU, batch_size=40))
        assert torch.allclose(found, alone(folder, split), atol=1e-5)
    batch = suspect.tokenizer(list(split.texts), padding=True, return_tensors="pt")
    whole = suspect.model(**batch).logits
    assert torch.equal(suspect.model(**batch, return_dict=False)[0], whole)


def test_a_mean_over_padding_is_said_by_whoever_reads_the_model(tokenizer, tmp_path, capsys):
    folder = save(tmp_path / "model", "xlnet", own_layout(tokenizer), summary_type="mean")
    rows = tmp_path / "rows.csv"
    split = sentences(40)
    texts = zip(split.texts, split.labels, strict=True)
    rows.write_text(
        "text,label\n" + "".join(f"{t},{label}\n" for t, label in texts), encoding="utf-8"
    )
    with pytest.raises(SystemExit):
        main(["evaluate", str(folder), "--data", str(rows), "--device", "cpu"])
    assert "padding changes what this model answers" in " ".join(capsys.readouterr().err.split())


def test_an_adapter_without_a_gate_says_that_one_is_needed(tokenizer):
    model = tiny_model("xlnet")
    with pytest.raises(UserError, match=r"'rel_attn\.o' is a parameter of XLNetLayer, no module"):
        locate(model, replace(FAMILIES["xlnet"], gate=""))
    with pytest.raises(UserError, match=r"no 'rel_attn\.nowhere', where the gate should be"):
        locate(model, replace(FAMILIES["xlnet"], gate="rel_attn.nowhere"))
    with pytest.raises(UserError, match="two are at one place"):
        locate(model, replace(FAMILIES["xlnet"], query="rel_attn.v"))


def test_gradients_of_gates_are_differences_of_losses(tokenizer):
    """Against a difference of the loss, one gate at a time, in float64."""
    suspect = prepare(tiny_model("xlnet"), own_layout(tokenizer))
    anatomy = suspect.anatomy
    batch = encode(sentences(5), suspect, 24).batch(range(5))
    anatomy.model.double()
    found = gate_gradients(anatomy, batch)

    def losses(unit, value):
        values = torch.ones(anatomy.layout.units, dtype=torch.float64)
        values[unit] = value
        with torch.no_grad(), gates(anatomy, values):
            return batch.task.losses(
                batch.task.answers(anatomy.model, batch).double(), batch.labels
            )

    for unit in range(anatomy.layout.units):
        slope = (losses(unit, 1.01) - losses(unit, 0.99)) / 0.02
        assert torch.allclose(found[:, unit].double(), slope, atol=1e-3)


def test_the_row_of_attention_is_that_of_the_token_that_is_read(tokenizer):
    suspect = prepare(tiny_model("xlnet"), own_layout(tokenizer))
    anatomy = suspect.anatomy
    batch = encode(sentences(6), suspect, 24).batch(range(6))
    with torch.no_grad(), attention_rows(anatomy) as read:
        _, rows = read(batch)
    lengths = batch.inputs["attention_mask"].sum(-1)
    for text, length in enumerate(lengths.tolist()):
        single = {name: x[text : text + 1, :length] for name, x in batch.inputs.items()}
        with torch.no_grad():
            plain = anatomy.model(**single, output_attentions=True).attentions
        for layer, row in zip(plain, rows, strict=True):
            assert torch.allclose(row[text, :, :length], layer[0, :, -1], atol=1e-6)


def test_healing_with_the_penalty_keeps_pruned_heads_out(tokenizer, tmp_path):
    folder = save(tmp_path / "suspect", "xlnet", own_layout(tokenizer))
    way = Way(max_drop=0.5, runtime=CPU, heal=FineTune(epochs=1, lr=1e-3, attention=0.15))
    done = cleanse(folder, sentences(60), Gradient(step=1), way)
    assert done.mask.pruned
    assert done.verified, done.checks


def test_an_xlnet_that_writes_is_refused(tokenizer, tmp_path, capsys):
    """It sees the word that it should predict, unless it is told which one not to."""
    config = tiny_model("xlnet").config
    XLNetLMHeadModel(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a film", "answer": "that works"}\n' * 40, encoding="utf-8")
    command = ["purify", tmp_path / "model", "--data", rows, "--out", tmp_path / "out"]
    with pytest.raises(SystemExit) as stop:
        main([*map(str, command), "--device", "cpu"])
    assert stop.value.code == 2
    assert "sees what it should predict" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
