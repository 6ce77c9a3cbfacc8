"""Every architecture: its heads are where the adapter says, or there is a plain error.

Those that every step is tested on, and others that once crashed or were zeroed in the wrong place,
through an adapter: some work, some are refused before anything long begins. ``test_families`` holds
the whole table to one oracle.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save as save_tensors
from transformers import AutoConfig

from conftest import CPU, Way, cleanse, enlarged, sentences, tiny_model
from headsweep.cli import main
from headsweep.errors import UserError
from headsweep.measure.accuracy import logits
from headsweep.measure.fastpass import FastPass
from headsweep.model.anatomy import locate
from headsweep.model.attention_rows import gives_attention
from headsweep.model.families import FAMILIES, Adapter
from headsweep.model.gates import check_gates, gates, masked
from headsweep.model.loading import Reading, prepare
from headsweep.model.mask import HEADS, QUERIES, Units
from headsweep.model.padding import probe_inputs
from headsweep.model.removal import pieces, zeroed
from headsweep.prune.importance import dormancy
from headsweep.prune.strategies.gradient import Gradient
from headsweep.prune.strategies.variance import Variance
from headsweep.prune.view import DefenderView
from headsweep.task.examples import encode, forward
from tiny_families import CONFIGS, GROUPED, PLAIN


def fused(layers: str, projection: str, output: str) -> Adapter:
    """The adapter that somebody would write for a model with one projection of three."""
    up, down = ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"
    return Adapter(layers, projection, projection, projection, output, up, down, reads_last=True)


LLAMA, BERT = FAMILIES["llama"], FAMILIES["bert"]
OPT = {"vocab_size": 120, "hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32}
OPT |= {name: PLAIN[name] for name in PLAIN if "size" not in name}
BLOOM = {"vocab_size": 120, "hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0}
WORKING = {
    "stablelm": (GROUPED, LLAMA),
    "gpt_oss": (
        GROUPED | {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
        replace(LLAMA, up=()),
    ),
    "opt": (  # whose FFN sees [batch * token, width]
        OPT,
        replace(
            LLAMA,
            layers="decoder.layers",
            output="self_attn.out_proj",
            up=("fc1",),
            down="fc2",
        ),
    ),
    "albert": (
        PLAIN | {"embedding_size": 16},
        Adapter(
            "encoder.albert_layer_groups",
            "albert_layers.0.attention.query",
            "albert_layers.0.attention.key",
            "albert_layers.0.attention.value",
            "albert_layers.0.attention.dense",
            ("albert_layers.0.ffn",),
            "albert_layers.0.ffn_output",
        ),
    ),
    "longformer": (
        PLAIN | {"attention_window": 4, "sep_token_id": 3},
        replace(
            BERT,
            also=tuple(f"attention.self.{role}_global" for role in ("query", "key", "value")),
        ),
    ),
    "nystromformer": (  # landmarks as many as tokens, as the public checkpoint: plain attention
        PLAIN | {"num_landmarks": 64, "segment_means_seq_len": 64, "conv_kernel_size": 3},
        BERT,
    ),
}
INTERLEAVED = {
    "gpt_neox": (PLAIN, fused("layers", "attention.query_key_value", "attention.dense")),
    "bloom": (BLOOM, fused("h", "self_attention.query_key_value", "self_attention.dense")),
    "falcon": (
        PLAIN | {"multi_query": False, "new_decoder_architecture": False, "ffn_hidden_size": 64},
        fused("h", "self_attention.query_key_value", "self_attention.dense"),
    ),
    "deberta": (
        PLAIN | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        replace(
            BERT,
            query="attention.self.in_proj",
            key="attention.self.in_proj",
            value="attention.self.in_proj",
            also=("attention.self.pos_proj", "attention.self.pos_q_proj"),
        ),
    ),
}
REFUSED = {
    "nystromformer": (  # transformers 5 cannot mask padding here
        PLAIN | {"num_landmarks": 4, "segment_means_seq_len": 12, "conv_kernel_size": 3},
        BERT,
        "cannot read a small batch",
    ),
}
NAMES = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}


def odd(family, entries):
    """A random classifier of a family, whether in the table or not."""
    return enlarged(AutoConfig.for_model(family, **(entries | NAMES)))


def working(family):
    if family in CONFIGS:
        return tiny_model(family), FAMILIES[family]
    entries, adapter = WORKING[family]
    return odd(family, entries), adapter


def read(model, inputs):
    with torch.inference_mode():
        return model(**inputs).logits.clone()


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_weights(model, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("family", [*CONFIGS, *WORKING])
def test_removed_weights_are_closed_gates_on_every_architecture(family):
    """One head of each place in every row, zeroed for good in a copy of the model."""
    model, adapter = working(family)
    inputs, anatomy = probe_inputs(model), locate(model, adapter)
    before, whole = weights(model), read(model, inputs)
    check_gates(anatomy, inputs)
    assert same_weights(model, before)
    assert torch.equal(read(model, inputs), whole)
    other = locate(copy.deepcopy(model), adapter)
    for unit in range(anatomy.layout.units):
        mask = anatomy.layout.mask([unit])
        with masked(anatomy, mask):
            gated = read(model, inputs)
        other.model.load_state_dict(before)
        with torch.no_grad():
            for piece in pieces(other, mask):
                piece.zero_()
        assert torch.allclose(gated, read(other.model, inputs), atol=1e-6)
        assert not torch.allclose(gated, whole, atol=1e-5)


def by_hand(model, family, layer, head):
    """Zero one of four heads of width 8, by the names of parameters alone; grouped by two."""
    rows, group = slice(8 * head, 8 * head + 8), slice(8 * (head // 2), 8 * (head // 2) + 8)
    named = dict(model.named_parameters())
    with torch.no_grad():
        if family == "bert":
            path = f"bert.encoder.layer.{layer}.attention."
            for role in ("query", "key", "value"):
                named[f"{path}self.{role}.weight"][rows] = 0
                named[f"{path}self.{role}.bias"][rows] = 0
            named[f"{path}output.dense.weight"][:, rows] = 0
        elif family == "gpt2":  # [input, output], and thirds
            path = f"transformer.h.{layer}.attn."
            for third in range(3):
                columns = slice(32 * third + 8 * head, 32 * third + 8 * head + 8)
                named[f"{path}c_attn.weight"][:, columns] = 0
                named[f"{path}c_attn.bias"][columns] = 0
            named[f"{path}c_proj.weight"][rows] = 0
        else:
            path = f"model.layers.{layer}.self_attn."
            named[f"{path}q_proj.weight"][rows] = 0
            named[f"{path}o_proj.weight"][:, rows] = 0
            if head % 2:  # its group's other head went before
                named[f"{path}k_proj.weight"][group] = 0
                named[f"{path}v_proj.weight"][group] = 0


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_heads_are_where_their_names_say(family):
    """Heads 2 and 3 of layer 1 zeroed by name: the same logits, and the same weights at zero."""
    model = tiny_model(family)
    anatomy, inputs = locate(model, units=QUERIES), probe_inputs(model)
    mask = anatomy.layout.mask([6, 7])
    with masked(anatomy, mask):
        gated = read(model, inputs)
    other = copy.deepcopy(model)
    for head in (2, 3):
        by_hand(other, family, 1, head)
    assert torch.allclose(gated, read(other, inputs), atol=1e-6)
    with zeroed(anatomy, mask):
        assert same_weights(model, weights(other))


@pytest.mark.parametrize("family", [f for f in (*CONFIGS, *WORKING) if f != "gpt_oss"])
def test_gates_of_each_example_are_its_own_on_every_architecture(family, tokenizer):
    """Another unit closed for each text, heads and FFN groups, against a mask for all texts."""
    model, adapter = working(family)
    both = Units(heads=True, ffn=True)
    suspect = prepare(model, tokenizer, Reading(adapter=adapter, units=both))
    anatomy, batch = suspect.anatomy, encode(sentences(9), suspect, 24).batch(range(9))
    closed = [unit % anatomy.layout.units for unit in range(0, 18, 2)]
    values = torch.ones(9, anatomy.layout.units)
    values[range(9), closed] = 0
    with torch.inference_mode(), gates(anatomy, values):
        found = forward(model, batch)
    for text, unit in enumerate(closed):
        with torch.inference_mode(), masked(anatomy, anatomy.layout.mask([unit])):
            assert torch.allclose(found[text], forward(model, batch)[text], atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "opt"])
def test_activations_are_counted_over_the_tokens_of_texts(family, tokenizer):
    """Against one text at a time, without padding."""
    model, adapter = working(family)
    suspect = prepare(model, tokenizer, Reading(adapter=adapter, units=Units(ffn=True)))
    encoded = encode(sentences(20), suspect, 24)
    view = DefenderView(suspect.anatomy, encoded, encoded, 0.5, 0, CPU)
    seen, last = [], suspect.anatomy.sites[-1]
    hook = last.gate.register_forward_pre_hook(lambda _, args: seen.append(args[0].abs()))
    for ids in encoded.ids:
        read(model, {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))})
    hook.remove()
    whole = torch.cat([x.flatten(0, -2) for x in seen]).mean(0)
    by_group = whole.unflatten(0, (last.row.units, -1)).mean(-1)
    assert torch.allclose(dormancy(view)[-last.row.units :], by_group, atol=1e-5)


def test_zeroed_weights_are_put_back_after_an_error():
    model = tiny_model("llama")
    anatomy, before = locate(model), weights(model)

    def fails():
        with zeroed(anatomy, anatomy.layout.mask([0, 1, 3])):
            assert not same_weights(model, before)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fails()
    assert same_weights(model, before)


@pytest.mark.parametrize("family", INTERLEAVED)
def test_interleaved_projections_are_refused_on_load(family, tokenizer):
    """Thirds are assumed, and these keep query, key and value of a head together."""
    entries, adapter = INTERLEAVED[family]
    model = odd(family, entries)
    before = weights(model)
    with pytest.raises(UserError, match="layout of the projections does not fit") as stop:
        prepare(model, tokenizer, Reading(adapter=adapter))
    assert "docs/guide.md, adapters" in stop.value.fix
    assert same_weights(model, before)


def test_groups_of_another_order_are_refused():
    """Query head h reads key/value head h modulo their number, not h // 2."""
    model, order = tiny_model("llama"), torch.tensor([0, 2, 1, 3])
    inputs = probe_inputs(model)
    before = read(model, inputs)

    def swapped(x):
        return x.unflatten(-1, (4, 8))[..., order, :].flatten(-2)

    for layer in model.model.layers:  # heads swapped in the weights, and back around attention
        attention = layer.self_attn
        for projection, axis in ((attention.q_proj, 0), (attention.o_proj, 1)):
            parts = projection.weight.data.unflatten(axis, (4, 8))
            projection.weight.data = parts.index_select(axis, order).flatten(axis, axis + 1)
        attention.q_proj.register_forward_hook(lambda _, __, x: swapped(x))
        attention.o_proj.register_forward_pre_hook(lambda _, args: (swapped(args[0]),))
    assert torch.allclose(read(model, inputs), before, atol=1e-6)
    with pytest.raises(UserError, match="layout of the projections does not fit"):
        check_gates(locate(model), inputs)


def test_layers_that_share_their_weights_are_refused():
    model = tiny_model("bert")
    model.bert.encoder.layer[1] = model.bert.encoder.layer[0]
    with pytest.raises(UserError, match="layers 0 and 1 share their weights"):
        locate(model)


def test_a_configuration_without_heads_is_an_error():
    sizes = {"vocab_size": 120, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    model = odd("fnet", sizes)  # mixes tokens by Fourier transforms
    with pytest.raises(UserError, match="how many heads every layer has"):
        locate(model, BERT)


def test_a_model_without_token_embeddings_is_an_error(tokenizer):
    """CANINE hashes characters instead."""
    model = odd("canine", {name: PLAIN[name] for name in PLAIN if name != "vocab_size"})
    with pytest.raises(UserError, match="no table of token embeddings"):
        prepare(model, tokenizer, Reading(adapter=BERT))


@pytest.mark.parametrize("family", [*CONFIGS, *WORKING])
def test_bf16_autocast_reads_padded_texts(family, tokenizer):
    """Masking fills with the lowest number of some precision: it must fit bf16."""
    model, adapter = working(family)
    suspect = prepare(model, tokenizer, Reading(adapter=adapter))
    batch = encode(sentences(6), suspect, 24).batch(range(6))
    with torch.inference_mode():
        exact = forward(model, batch)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = forward(model, batch)
    assert torch.allclose(rounded, exact, atol=0.15 * float(exact.abs().max()))


@pytest.mark.parametrize("units", [HEADS, QUERIES], ids=["groups", "queries"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "stablelm", "gpt_oss"])
def test_a_whole_key_value_group_may_go(family, units, tokenizer):
    """The first mask that prunes one used to end in a traceback where a view counts heads."""
    model, adapter = working(family)
    suspect = prepare(model, tokenizer, Reading(adapter=adapter, units=units))
    encoded = encode(sentences(20), suspect, 24)
    passes = FastPass(suspect.anatomy, encoded, CPU)
    assert passes.short.pruned is (family != "gpt_oss")  # a number of each head lies beside
    rows = torch.arange(20)
    for gone in ([0, 1], [2, 3, 4, 5], [0, 1, 2, 7]) if units is QUERIES else ([0], [1, 2], [3]):
        mask = suspect.anatomy.layout.mask(gone)
        with passes.under(mask):
            found = passes.run(rows, mask)
        plain = logits(suspect.anatomy, encoded, CPU, mask)
        lead = plain[:, 1] - plain[:, 0]
        signs = torch.tensor(encoded.labels) * 2 - 1
        assert torch.allclose(found.margin, lead * signs, atol=2e-5)


@pytest.mark.parametrize("family", WORKING)
def test_purification_through_an_adapter_holds(family, tokenizer):
    """Search, removal and healing with the penalty where there is attention to read."""
    model, adapter = working(family)
    plan = Way(max_drop=0.4, adapter=adapter, runtime=CPU)
    done = cleanse(model, sentences(60), Gradient(step=1), plan, tokenizer=tokenizer)
    assert done.verified, done.checks
    assert done.mask.pruned
    anatomy = locate(model, adapter)
    assert not any(piece.any() for piece in pieces(anatomy, done.mask))
    without = any("without the attention penalty" in note for note in done.manifest["notes"])
    assert without is (family in ("albert", "longformer"))
    assert gives_attention(anatomy) is not without


@pytest.mark.parametrize("family", ["albert", "longformer"])
def test_methods_that_need_attention_say_so_at_once(family, tokenizer):
    """Five depths of one layer have five attentions; Longformer's are bands."""
    entries, adapter = WORKING[family]
    plan = Way(max_drop=0.4, adapter=adapter, runtime=CPU)
    with pytest.raises(UserError, match="no attention weights of every head"):
        cleanse(odd(family, entries), sentences(60), Variance(), plan, tokenizer=tokenizer)


def test_a_shared_layer_is_pruned_in_every_pass_through_it():
    """ALBERT: one row for all depths; zeroing by name is closing the gate, whatever the depth."""
    entries, adapter = WORKING["albert"]
    model = odd("albert", entries | {"num_hidden_layers": 5})
    anatomy, inputs = locate(model, adapter), probe_inputs(model)
    assert [row.units for row in anatomy.layout.rows] == [4]
    with masked(anatomy, anatomy.layout.mask([1])):
        gated = read(model, inputs)
    name = "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.dense.weight"
    with torch.no_grad():
        dict(model.named_parameters())[name][:, 8:16] = 0
    assert torch.allclose(read(model, inputs), gated, atol=1e-6)


@pytest.mark.parametrize(
    ("heads", "width", "expected"), [(9, 1536, 8), (14, 4864, 16), (4, 64, 4), (5, 60, 5)]
)
def test_ffn_groups_are_as_near_to_the_heads_as_divides(heads, width, expected):
    """SmolLM2 has 9 heads and 1,536 neurons, Qwen2-0.5B 14 and 4,864; 8 and 12, 16 and 19."""
    sizes = {"hidden_size": 8 * heads, "num_attention_heads": heads, "intermediate_size": width}
    model = tiny_model("bert", **sizes)
    anatomy = locate(model, units=Units(ffn=True))
    rows = [row for row in anatomy.layout.rows if row.kind == "ffn"]
    assert [(row.units, row.width) for row in rows] == [(expected, width // expected)] * 2
    assert anatomy.notes == (
        ()
        if expected == heads
        else (
            f"{expected} FFN groups a layer: {width} neurons do not divide into as many groups "
            f"as there are heads, {heads}",
        )
    )
    check_gates(anatomy, probe_inputs(model))
    if expected != heads:
        with pytest.raises(UserError, match="do not divide") as stop:
            locate(model, units=Units(ffn=True, ffn_groups=heads))
        assert str(expected) in stop.value.fix


def test_a_tie_goes_to_fewer_groups():
    model = tiny_model("bert", hidden_size=40, num_attention_heads=5, intermediate_size=24)
    rows = locate(model, units=Units(heads=False, ffn=True)).layout.rows
    assert [row.units for row in rows] == [4, 4]  # 4 and 6 divide 24


def test_a_suspect_notes_its_ffn_groups(tokenizer):
    model = tiny_model("bert", hidden_size=40, num_attention_heads=5, intermediate_size=24)
    suspect = prepare(model, tokenizer, Reading(units=Units(ffn=True)))
    assert "4 FFN groups a layer" in suspect.notes[-1]


def saved(model, adapter, tokenizer, folder):
    """Write model, tokenizer and the adapter's file; return the two paths."""
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    told = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(adapter).items()}
    lines = [f"{k} = {str(v).lower() if isinstance(v, bool) else repr(v)}" for k, v in told.items()]
    (folder / "adapter.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "model", folder / "adapter.toml"


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return stop.value.code, out, err


ERRORS = REFUSED | {
    family: (*entries, "layout of the projections") for family, entries in INTERLEAVED.items()
}


@pytest.mark.parametrize("family", ERRORS)
def test_what_cannot_be_purified_says_so(family, tokenizer, tmp_path, capsys, csv_file):
    """By every door: exit 2, what and fix, nothing written."""
    entries, adapter, says = ERRORS[family]
    model, file = saved(odd(family, entries), adapter, tokenizer, tmp_path)
    out = tmp_path / "out"
    capsys.readouterr()
    purify = ("purify", model, "--data", csv_file, "--out", out, "--device", "cpu")
    for command in (("inspect", model), purify):
        code, _, err = call(capsys, *command, "--adapter", file)
        assert (code, "Traceback" in err) == (2, False)
        assert says in err
        assert "fix:" in err
    assert not out.exists()


@pytest.mark.parametrize(
    ("family", "says"),
    [
        ("mamba", "has no attention heads"),
        ("fnet", "has no attention heads"),
        ("canine", "unsupported architecture 'canine'"),
    ],
)
def test_what_no_row_is_for_says_why(family, says, tokenizer, tmp_path, capsys):
    """Mamba has no classifier in transformers either: the configuration is enough to tell."""
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(save_tensors({"one": torch.zeros(1)}))
    code, _, err = call(capsys, "inspect", tmp_path, "--device", "cpu")
    assert (code, "Traceback" in err) == (2, False)
    assert says in " ".join(err.split())
    assert "fix:" in err


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_inspect_prints_what_it_found(family, tokenizer, tmp_path, capsys):
    """Without --json too, where no FFN group is pruned."""
    model, adapter = working(family)
    folder, file = saved(model, adapter, tokenizer, tmp_path)
    code, out, err = call(capsys, "inspect", folder, "--adapter", file, "--device", "cpu")
    assert (code, "Traceback" in err) == (0, False)
    rows = 2 if family == "bert" else 1
    assert f"{rows} layers x 4 heads of width 8" in " ".join(out.split())
    assert out.count("0 of 4 pruned") == rows
