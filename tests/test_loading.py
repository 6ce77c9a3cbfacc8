from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    RoCBertTokenizer,
)

from conftest import CPU, sentences, tiny_model
from headsweep.errors import UserError
from headsweep.export.model_folder import save_model
from headsweep.model.families import Adapter
from headsweep.model.loading import Reading, load_suspect, prepare
from headsweep.model.padding import positions_of, probe_inputs
from headsweep.model.runtime import Runtime
from headsweep.model.vetting import refusals
from tiny_families import CONFIGS, PLAIN


class Hub(BaseHTTPRequestHandler):
    """Enough of the Hub to download the files of one model, from a local folder."""

    def _answer(self, body):
        path = self.path.split("?")[0]
        asked = re.fullmatch(r"/org/tiny/resolve/(?:main|0{40})/(.+)", path)
        if path == "/api/models/org/tiny":
            data = json.dumps({"id": "org/tiny", "sha": "0" * 40, "siblings": []}).encode()
        elif asked and (self.server.folder / asked[1]).is_file():
            data = (self.server.folder / asked[1]).read_bytes()
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.server.served.append(path)
            self.wfile.write(data)

    def do_GET(self):
        self._answer(body=True)

    def do_HEAD(self):
        self._answer(body=False)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(trained_folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.served = trained_folder, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def inspect(name, hub, cache):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    return subprocess.run(
        [sys.executable, "-m", "headsweep.cli", "inspect", name, "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )


def test_a_model_of_the_hub_is_downloaded_and_inspected(hub, tmp_path):
    found = inspect("org/tiny", hub, tmp_path)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["heads"] == 8
    assert any(path.endswith("model.safetensors") for path in hub.served)


def test_a_model_that_the_hub_lacks_is_one_clear_error(hub, tmp_path):
    found = inspect("org/none", hub, tmp_path)
    assert found.returncode == 2
    assert "org/none: no such folder, and the Hub gave no configuration" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_fresh_head_is_seeded_and_keeps_the_label_names_that_fit(trained_folder):
    first = load_suspect(trained_folder, CPU, Reading(["good", "bad"], seed=1))
    again = load_suspect(trained_folder, CPU, Reading(["good", "bad"], seed=1))
    other = load_suspect(trained_folder, CPU, Reading(["good", "bad"], seed=2))
    assert first.labels.names == ("bad", "good")
    weight = first.model.classifier.weight
    assert torch.equal(weight, again.model.classifier.weight)
    assert not torch.equal(weight, other.model.classifier.weight)
    three = load_suspect(trained_folder, CPU, Reading(["a", "b", "c"], seed=1))
    assert three.labels.names == ("a", "b", "c")
    assert three.model.config.num_labels == 3


def test_the_encoder_alone_loads_with_a_fresh_head(tmp_path, tokenizer):
    tiny_model("bert").bert.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no classifier"):
        load_suspect(tmp_path, CPU)
    suspect = load_suspect(tmp_path, CPU, Reading(sentences(4).labels))
    assert suspect.fresh_head
    assert suspect.labels.names == ("bad", "good")


def test_runtime_checks_its_fields():
    for wrong in ({"precision": "fp8"}, {"batch_size": 0}, {"max_length": 1}):
        with pytest.raises(UserError):
            Runtime(**wrong)
    with pytest.raises(UserError, match="cannot be used"):
        _ = Runtime(device="nowhere").torch_device


def altered(folder, out, change=lambda tensors: tensors, **config):
    """Copy a model folder with other tensors and configuration entries."""
    shutil.copytree(folder, out)
    save_file(change(load_file(folder / "model.safetensors")), out / "model.safetensors")
    entries = json.loads((folder / "config.json").read_text()) | config
    (out / "config.json").write_text(json.dumps(entries))
    return out


def cut_heads(tensors):
    """What transformers 4 saved of a model whose layer 0 lost its first head (8 wide)."""
    cut = dict(tensors)
    for name in ("query", "key", "value"):
        for kind in ("weight", "bias"):
            key = f"bert.encoder.layer.0.attention.self.{name}.{kind}"
            cut[key] = cut[key][8:].clone()
    key = "bert.encoder.layer.0.attention.output.dense.weight"
    cut[key] = cut[key][:, 8:].clone()
    return cut


FRESH = Reading(("bad", "good"))
MODERN = AutoConfig.for_model(
    "modernbert",
    **(PLAIN | {"id2label": {0: "bad", 1: "good"}, "norm_bias": True, "reference_compile": False}),
    cls_token_id=2,
    sep_token_id=3,
    global_attn_every_n_layers=1,
)
MODERN_ADAPTER = Adapter(
    "layers", "attn.Wqkv", "attn.Wqkv", "attn.Wqkv", "attn.Wo", ("mlp.Wi",), "mlp.Wo"
)


@pytest.mark.parametrize("reading", [Reading(), FRESH], ids=["classifier", "encoder"])
@pytest.mark.parametrize(
    ("change", "config", "tensor", "shapes", "fix"),
    [
        (cut_heads, {"pruned_heads": {"0": [0]}}, "layer.0.attention", "[24]", "cut heads out"),
        (dict, {"vocab_size": 130}, "word_embeddings", "[120, 32] in the file and [130, 32]", ""),
        (dict, {"max_position_embeddings": 40}, "position_embeddings", "[48, 32]", "config.json"),
        (dict, {"intermediate_size": 96}, "intermediate.dense", "[64, 32]", ""),
    ],
    ids=["pruned heads", "vocabulary", "positions", "ffn"],
)
def test_no_tensor_of_another_shape_is_invented(
    trained_folder, tmp_path, reading, change, config, tensor, shapes, fix
):
    folder = altered(trained_folder, tmp_path / "other", change, **config)
    with pytest.raises(UserError) as caught:
        load_suspect(folder, CPU, reading)
    assert tensor in caught.value.what
    assert fix in caught.value.fix
    text = str(caught.value)
    assert shapes in text or "more tensors" in text
    assert "by the configuration" in text


@pytest.mark.parametrize("reading", [Reading(), FRESH], ids=["classifier", "encoder"])
def test_a_missing_pooler_is_not_invented(trained_folder, tmp_path, reading):
    def without(tensors):
        return {key: x for key, x in tensors.items() if "pooler" not in key}

    folder = altered(trained_folder, tmp_path / "other", without)
    with pytest.raises(UserError, match=r"lacks bert\.pooler\.dense\.bias, which this arch"):
        load_suspect(folder, CPU, reading)


def test_a_token_classifier_is_refused(tokenizer, tmp_path):
    config = tiny_model("bert").config
    AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="not trained to classify texts but to give words a tag"):
        load_suspect(tmp_path, CPU)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "modernbert"])
def test_a_token_classifier_with_the_names_of_a_text_classifier_is_refused(
    family, tokenizer, tmp_path
):
    config = tiny_model(family).config if family in CONFIGS else MODERN
    saved = AutoModelForTokenClassification.from_config(config)
    saved.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reading = Reading() if family in CONFIGS else Reading(adapter=MODERN_ADAPTER)
    with pytest.raises(UserError, match=type(saved).__name__):
        load_suspect(tmp_path, CPU, reading)
    if family in CONFIGS:  # its weights are those of an encoder as good as any
        assert load_suspect(tmp_path, CPU, FRESH).fresh_head


def test_a_token_classifier_in_memory_is_refused(tokenizer):
    model = AutoModelForTokenClassification.from_config(tiny_model("llama").config)
    with pytest.raises(UserError, match="every text one answer"):
        prepare(model.eval(), tokenizer)


@pytest.mark.parametrize("name", ["classifier.dense.weight", "classifier.norm.bias"])
def test_a_head_with_more_than_the_model_runs_is_refused(trained_folder, tmp_path, name):
    def more(tensors):
        return tensors | {name: torch.ones(32)}

    folder = altered(trained_folder, tmp_path / "other", more)
    with pytest.raises(UserError, match=f"head of the file holds {re.escape(name)}"):
        load_suspect(folder, CPU)
    assert load_suspect(folder, CPU, FRESH).fresh_head


@pytest.mark.parametrize(
    ("auto", "readings"),
    [(AutoModelForMaskedLM, (Reading(), FRESH)), (AutoModelForTokenClassification, (FRESH,))],
)
def test_a_missing_pooler_is_told_before_a_missing_classifier(auto, readings, tokenizer, tmp_path):
    """Both are missing: a fresh classifier would not do."""
    auto.from_config(tiny_model("bert").config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for reading in readings:
        with pytest.raises(UserError, match=r"lacks bert\.pooler\.dense\.bias") as caught:
            load_suspect(tmp_path, CPU, reading)
        assert "--start encoder" not in caught.value.fix
        assert "checkpoint with its pooler" in caught.value.fix


def test_a_fresh_head_begins_as_transformers_begins_one(tokenizer, tmp_path):
    """What scales begins at one, what is added at nought; a norm of zeros would answer nothing."""
    made = AutoModelForSequenceClassification.from_config(MODERN)
    with torch.no_grad():
        made.head.norm.weight.fill_(7)
    made.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reading = Reading(("bad", "good"), adapter=MODERN_ADAPTER)
    model = load_suspect(tmp_path, CPU, reading).model
    plain = dict(AutoModelForSequenceClassification.from_config(MODERN).named_parameters())
    heads = {k: p for k, p in model.named_parameters() if not k.startswith("model.")}
    flat = {name for name, p in heads.items() if p.dim() == 1}
    assert flat == {"head.norm.weight", "head.norm.bias", "classifier.bias"}
    assert all(torch.equal(heads[name], plain[name]) for name in flat)


def with_tensors(folder, place, **more):
    shutil.copytree(folder, place)
    tensors = load_file(place / "model.safetensors") | more
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    return place


def test_masks_and_positions_of_older_files_are_no_layers(tokenizer, tmp_path):
    """transformers 4 saved them, and 5 works them out."""
    tiny_model("gpt2").save_pretrained(tmp_path / "new")
    tokenizer.save_pretrained(tmp_path / "new")
    attention = "transformer.h.0.attn."
    mask = {f"{attention}bias": torch.ones(1, 1, 48, 48), f"{attention}masked_bias": torch.ones(())}
    old = with_tensors(tmp_path / "new", tmp_path / "old", **mask)
    states = [load_suspect(one, CPU).model.state_dict() for one in (tmp_path / "new", old)]
    assert all(torch.equal(states[0][name], x) for name, x in states[1].items())
    learnt = {f"{attention}masked_bias": torch.ones(48)}
    with pytest.raises(UserError, match=r"holds 1 tensors that the configuration leaves out"):
        load_suspect(with_tensors(tmp_path / "new", tmp_path / "other", **learnt), CPU)


@pytest.mark.parametrize(
    "changes",
    [
        {"output_attentions": True, "output_hidden_states": True},
        {"return_dict": False},
        {"distributed_config": {"tp_size": 2, "tp_plan": "auto"}},
    ],
)
def test_what_a_call_returns_beside_is_not_asked_for(trained_folder, tmp_path, changes):
    suspect = load_suspect(altered(trained_folder, tmp_path / "other", **changes), CPU)
    save_model(suspect, tmp_path / "saved")
    assert not set(changes) & set(json.loads((tmp_path / "saved" / "config.json").read_text()))
    own = load_suspect(trained_folder, CPU)
    inputs = probe_inputs(own.model)
    with torch.no_grad():
        found = [one.model(**inputs).logits for one in (own, suspect)]
    assert torch.equal(*found)


def test_a_model_in_memory_that_gives_attention_is_saved(tiny, tmp_path):
    suspect = tiny()
    suspect.model.config._output_attentions = True
    save_model(suspect, tmp_path / "saved")
    assert suspect.model.config.output_attentions is True
    assert load_suspect(tmp_path / "saved", CPU).labels == suspect.labels


@pytest.mark.parametrize("name", ["dim", "auto_map", "num_labels"])
def test_a_label_may_be_called_as_a_key_is(trained_folder, tmp_path, name):
    labels = {"id2label": {"0": name, "1": "bright"}, "label2id": {name: 0, "bright": 1}}
    suspect = load_suspect(altered(trained_folder, tmp_path / "other", **labels), CPU)
    assert suspect.labels.names == (name, "bright")
    assert suspect.model.config.label2id == labels["label2id"]


def test_a_tokenizer_without_the_padding_token_gets_no_word_for_it(tiny, tokenizer):
    """None is a word like others."""
    text = "None of it is good"
    before = tokenizer(text)["input_ids"]
    model = tiny_model("llama", vocab_size=120, pad_token_id=119)
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    suspect = prepare(model, bare)
    assert suspect.padding.number == 119
    assert suspect.tokenizer(text)["input_ids"] == before
    assert any("no token of number 119" in note for note in suspect.notes)


def test_named_chat_templates_are_kept(trained_folder, tmp_path):
    folder = altered(trained_folder, tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = {"default": "{{ 1 }}", "tool_use": "{{ 2 }}"}
    tokenizer.save_pretrained(folder)
    suspect = load_suspect(folder, CPU)
    save_model(suspect, tmp_path / "saved")
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == tokenizer.chat_template
    )


@pytest.mark.parametrize(
    "templates",
    [
        {"default": "{{ 1 }}", "v1.5": "{{ 2 }}"},
        [{"name": "tool use", "template": "{{ 2 }}"}, {"name": "default", "template": "{{ 1 }}"}],
    ],
)
def test_templates_of_any_form_are_kept(trained_folder, tmp_path, templates):
    folder = altered(trained_folder, tmp_path / "other")
    form = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(form | {"chat_template": templates}))
    save_model(load_suspect(folder, CPU), tmp_path / "saved")
    kept = AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template
    assert sorted(kept.values()) == ["{{ 1 }}", "{{ 2 }}"]


@pytest.mark.parametrize("name", ["../../x", "a/b", "", "..", "x" * 300])
def test_a_template_that_no_file_can_be_named_after_is_refused(trained_folder, tmp_path, name):
    folder = altered(trained_folder, tmp_path / "other")
    form = json.loads((folder / "tokenizer_config.json").read_text())
    form["chat_template"] = [{"name": name, "template": "{{ 1 }}"}]
    (folder / "tokenizer_config.json").write_text(json.dumps(form))
    with pytest.raises(UserError, match="chat_template is"):
        load_suspect(folder, CPU)


def test_further_templates_that_are_refused_are_listed(trained_folder, tmp_path):
    folder = altered(trained_folder, tmp_path / "other")
    (folder / "additional_chat_templates" / "a.jinja").mkdir(parents=True)
    with pytest.raises(UserError):
        load_suspect(folder, CPU)
    assert [word for word, _ in refusals("other", folder)] == ["tokenizer"]


def test_bigbird_attends_to_all_tokens_whatever_it_read_before(tokenizer):
    config = {"attention_type": "block_sparse", "block_size": 8, "num_random_blocks": 1}
    model = tiny_model("big_bird", max_position_embeddings=300, **config)
    ids = {"input_ids": torch.randint(5, 29, (1, 256))}
    suspect = prepare(model, tokenizer)
    assert any("original_full" in note for note in suspect.notes)
    assert model.config.attention_type == "original_full"
    with torch.no_grad():
        found = suspect.model(**ids).logits
        whole = tiny_model("big_bird", max_position_embeddings=300)
        whole.load_state_dict(model.state_dict())
        assert torch.allclose(whole(**ids).logits, found, atol=1e-6)


def test_a_model_that_reads_more_than_tokens_is_refused(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    numbers = json.dumps({word: number for number, word in enumerate(words)})
    for name in ("word_shape", "word_pronunciation"):
        (tmp_path / f"{name}.json").write_text(numbers)
    reads = RoCBertTokenizer.from_pretrained(tmp_path)
    released = tiny_model("roc_bert", enable_shape=True, enable_pronunciation=True)
    with pytest.raises(UserError, match="reads input_pronunciation_ids, input_shape_ids of a text"):
        prepare(released, reads)
    assert prepare(tiny_model("roc_bert"), reads).labels  # which takes neither
    assert prepare(tiny_model("bert"), reads).labels


def test_the_limit_of_mpt_is_known(tokenizer):
    model = SimpleNamespace(config=AutoConfig.for_model("mpt", max_seq_len=48))
    assert positions_of(model) == 48


@pytest.mark.parametrize("reading", [Reading(), FRESH], ids=["classifier", "encoder"])
def test_layers_that_the_configuration_leaves_out_are_noticed(trained_folder, tmp_path, reading):
    folder = altered(trained_folder, tmp_path / "other", num_hidden_layers=1)
    with pytest.raises(UserError, match=r"holds 16 tensors that the configuration leaves out"):
        load_suspect(folder, CPU, reading)


@pytest.mark.parametrize(
    ("auto", "family"),
    [
        (AutoModelForPreTraining, "bert"),
        (AutoModel, "bert"),
        (AutoModel, "roberta"),  # with a pooler that its classifier does not run
        (AutoModelForMaskedLM, "roberta"),
        (AutoModelForMaskedLM, "deberta-v2"),
        (AutoModelForCausalLM, "gpt2"),
        (AutoModelForCausalLM, "llama"),
    ],
)
def test_a_fresh_head_leaves_every_tensor_of_the_file_as_it_is(auto, family, tokenizer, tmp_path):
    auto.from_config(tiny_model(family).config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_suspect(tmp_path, CPU, FRESH).model
    own = model.base_model.state_dict()
    prefix = model.base_model_prefix + "."
    file = {
        key.removeprefix(prefix): x for key, x in load_file(tmp_path / "model.safetensors").items()
    }
    assert own.keys() <= file.keys()
    assert all(torch.equal(x, file[key]) for key, x in own.items())
