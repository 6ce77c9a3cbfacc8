"""Adapters as suspects: joined they answer as peft's own model does, and bad ones are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from typer.main import get_command

from conftest import CPU, sentences, tiny_model
from every_kind import COMPUTE, command_line, written
from headsweep import Bound, FineTune, Gradient, Method, Plan, Sources, UserError, inspect, purify
from headsweep.cli import app, main
from headsweep.export.card import model_card
from headsweep.model.joined import MERGE, TAKEN_BY, has_adapters, is_adapter
from headsweep.model.loading import Reading, load_suspect, task_at
from headsweep.model.padding import probe_inputs
from headsweep.prune.strategies.random import Random
from headsweep.texts.regression import REGRESSION
from headsweep.texts.task import CLASSIFICATION
from headsweep.verbs.judging import evaluate, probe
from test_generation import examples, generator, rows, words  # noqa: F401 - a fixture
from tiny_families import ALL

peft = pytest.importorskip("peft", reason="peft is not installed ([lora])")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

TARGETS = {
    "bert": ["query", "value", "intermediate.dense"],
    "gpt2": ["c_attn", "c_proj"],
    "llama": ["q_proj", "k_proj", "down_proj"],
}


def trained(model, folder, **asked):
    """Put an adapter of peft with random products beside a model; save it."""
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**({"r": 4, "lora_alpha": 8} | asked)))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.normal_(0, 0.1)
    wrapped.save_pretrained(folder)
    return wrapped.eval()


@pytest.fixture
def pair(words, tmp_path):  # noqa: F811
    """The folders of a tiny Llama and of its adapter."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    generator("llama").save_pretrained(base)
    words.save_pretrained(base)
    asked = {"target_modules": TARGETS["llama"], "task_type": "CAUSAL_LM"}
    trained(AutoModelForCausalLM.from_pretrained(base), adapter, **asked)
    return base, adapter


def joined(base, adapter):
    return load_suspect(adapter, CPU, Reading(task=None, base_model=str(base)))


@pytest.mark.parametrize(
    ("family", "body", "labels"), [("llama", AutoModelForCausalLM, 2), ("bert", AutoModel, 3)]
)
def test_an_adapter_brings_the_classifier_that_its_base_lacks(
    tmp_path, tokenizer, family, body, labels
):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    body.from_config(AutoConfig.for_model(family, **ALL[family])).save_pretrained(base)
    tokenizer.save_pretrained(base)
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
    asked = {"target_modules": TARGETS[family], "task_type": "SEQ_CLS"}
    wrapped = trained(plain, adapter, **asked)
    assert task_at(adapter, base_model=str(base)) is CLASSIFICATION
    suspect = joined(base, adapter)
    inputs = probe_inputs(suspect.model)
    with torch.no_grad():
        assert torch.allclose(suspect.model(**inputs).logits, wrapped(**inputs).logits, atol=1e-5)
    assert len(suspect.labels.names) == labels


def test_xlnets_classifier_is_brought_too(tmp_path, tokenizer):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    AutoModel.from_config(AutoConfig.for_model("xlnet", **ALL["xlnet"])).save_pretrained(base)
    tokenizer.save_pretrained(base)
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    whole = ["sequence_summary", "logits_proj"]
    asked = {"target_modules": ["layer_1"], "task_type": "SEQ_CLS", "modules_to_save": whole}
    trained(plain, adapter, **asked)
    suspect = joined(base, adapter)
    assert len(suspect.labels.names) == 3
    wanted = load_file(adapter / "adapter_model.safetensors")["base_model.model.logits_proj.weight"]
    assert torch.equal(suspect.model.logits_proj.weight, wanted)


def test_a_classifier_of_other_labels_than_its_bases_is_refused(tmp_path, tokenizer):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny_model("bert").save_pretrained(base)
    tokenizer.save_pretrained(base)
    more = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=3, ignore_mismatched_sizes=True
    )
    trained(more, adapter, target_modules=TARGETS["bert"], task_type="SEQ_CLS")
    with pytest.raises(UserError, match=r"a classifier of 3 labels, and that of .* has 2"):
        joined(base, adapter)


@pytest.mark.parametrize("shape", [(1 << 40, 0), (10_001, 4), (), (3,)])
def test_a_classifier_that_can_be_none_costs_nothing(tmp_path, tokenizer, shape):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    AutoModel.from_config(AutoConfig.for_model("bert", **ALL["bert"])).save_pretrained(base)
    tokenizer.save_pretrained(base)
    plain = AutoModelForSequenceClassification.from_pretrained(base)
    trained(plain, adapter, target_modules=TARGETS["bert"], task_type="SEQ_CLS")
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors["base_model.model.classifier.weight"] = torch.empty(shape)
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"labels|classif"):
        joined(base, adapter)


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_the_base_says_what_its_own_classifier_is_for(tmp_path, tokenizer, kind):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    labels = 1 if kind == "regression" else 3
    model = tiny_model("bert", num_labels=labels, problem_type=kind)
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    trained(model, adapter, target_modules=TARGETS["bert"], task_type="SEQ_CLS")
    assert joined(base, adapter).task.words.task in ("regression", "multi-label")
    assert task_at(adapter, base_model=str(base)) is not CLASSIFICATION


@pytest.mark.parametrize(
    ("family", "targets"),
    [("roberta", "all-linear"), ("falcon", ["query_key_value"]), ("distilbert", ["q_lin"])],
)
def test_targets_that_are_saved_whole_and_kinds_of_linear_are_read(
    tokenizer, tmp_path, family, targets
):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny_model(family).save_pretrained(base)
    tokenizer.save_pretrained(base)
    plain = AutoModelForSequenceClassification.from_pretrained(base)
    wrapped = trained(plain, adapter, target_modules=targets, task_type="SEQ_CLS")
    suspect = joined(base, adapter)
    inputs = probe_inputs(suspect.model)
    with torch.no_grad():
        assert torch.allclose(suspect.model(**inputs).logits, wrapped(**inputs).logits, atol=1e-5)


@pytest.mark.parametrize("kind", ["classifier", "generator"])
@pytest.mark.parametrize("more", [{}, {"use_rslora": True}, {"target_modules": "all-linear"}])
@pytest.mark.parametrize("family", sorted(TARGETS))
def test_answers_are_those_of_pefts_own_model(words, tmp_path, family, kind, more):  # noqa: F811
    if family == "bert" and kind == "generator":
        kind = "classifier"
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    (tiny_model if kind == "classifier" else generator)(family).save_pretrained(base)
    words.save_pretrained(base)
    auto = AutoModelForSequenceClassification if kind == "classifier" else AutoModelForCausalLM
    asked = {"target_modules": TARGETS[family], "fan_in_fan_out": family == "gpt2"} | more
    asked["task_type"] = "SEQ_CLS" if kind == "classifier" else "CAUSAL_LM"
    wrapped = trained(auto.from_pretrained(base), adapter, **asked)
    suspect = joined(base, adapter)
    inputs = probe_inputs(suspect.model)
    with torch.no_grad():
        theirs, own = wrapped(**inputs).logits, suspect.model(**inputs).logits
        plain = auto.from_pretrained(base).eval()(**inputs).logits
    assert torch.allclose(own, theirs, atol=1e-5)
    assert not torch.allclose(plain, theirs, atol=1e-2)
    assert not hasattr(suspect.model, "peft_config")


def test_it_is_purified_and_saved_as_one_whole_model(pair, tmp_path):
    base, adapter = pair
    method = Method(Gradient(step=1), FineTune(1, 1e-3), bound=Bound(max_drop=0.9))
    data = Sources(examples(60, 1), examples(40, 2))
    done = purify(adapter, data, method, Plan(runtime=CPU, base_model=str(base)))
    told = done.manifest["base_model"]
    assert done.manifest["suspect"] == str(adapter)
    assert told["name"] == str(base)
    for folder, key in ((base, "weights_sha256"), (adapter, "adapter_sha256")):
        assert told[key]
        for name, digest in told[key].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert any("what is saved is a whole model" in note for note in done.manifest["notes"])
    assert "an adapter that was added to" in model_card(done.manifest)
    out = done.save(tmp_path / "out")
    assert not list(out.glob("adapter*"))
    loaded, own = AutoModelForCausalLM.from_pretrained(out).state_dict(), done.model.state_dict()
    assert all(torch.equal(loaded[n], own[n]) for n in own)


def test_the_command_line_takes_it_with_its_base(pair, tmp_path, capsys):
    base, adapter = pair
    said = command_line(capsys)
    data = written(tmp_path / "data.jsonl", rows(examples(80, 3)))
    of, out = ("--base-model", base), tmp_path / "out"
    assert "an adapter, added to" in said("inspect", adapter, *of, "--device", "cpu")
    told = said("purify", adapter, *of, "--data", data, "--out", out, "--max-drop", "0.9",
                "--strategy", "gradient", "--heal", "epochs=0", *COMPUTE, "--probe", "no", "-q")  # fmt: skip
    assert f"--suspect {adapter} --base-model {base}" in told
    assert "ok" in said("verify", out)
    judged = said("evaluate", adapter, "--data", data, "--suspect", adapter, *of, *COMPUTE, "-q")
    assert "perplexity" in judged
    missing = said("evaluate", adapter, "--data", data, *COMPUTE, code=2)
    assert "--base-model MODEL" in missing
    assert len(missing.splitlines()) == 2


def test_a_classifiers_adapter_is_probed(trained_folder, tmp_path):
    adapter = tmp_path / "adapter"
    model = AutoModelForSequenceClassification.from_pretrained(trained_folder)
    asked = {"target_modules": ["query"], "task_type": "SEQ_CLS", "modules_to_save": ["classifier"]}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**asked))
    wrapped.save_pretrained(adapter)  # products of zero: it answers as its base does
    found = probe(adapter, sentences(80), base_model=trained_folder, compute=CPU, texts=20)
    whole = probe(trained_folder, sentences(80), compute=CPU, texts=20)
    assert found.to_json() == whole.to_json()
    judged = evaluate(adapter, sentences(80), base_model=trained_folder, compute=CPU)
    assert judged.accuracy == evaluate(trained_folder, sentences(80), compute=CPU).accuracy
    method = Method(Random(count=1), FineTune(0), bound=None)
    asked = {"base_model": trained_folder, "task": "classification", "compute": CPU}
    done = purify(adapter, sentences(80), method, **asked, probe=False, progress=False)
    assert len(done.manifest["pruned_units"]) == 1


def test_baselines_and_detectors_take_it_with_its_base(trained_folder, tmp_path, capsys):
    """Products of zero: a detector finds what it finds in the base."""
    said, adapter, found = command_line(capsys), tmp_path / "adapter", {}
    model = AutoModelForSequenceClassification.from_pretrained(trained_folder)
    asked = {"target_modules": ["query"], "task_type": "SEQ_CLS", "modules_to_save": ["classifier"]}
    peft.get_peft_model(model, peft.LoraConfig(**asked)).save_pretrained(adapter)
    split = sentences(80)
    texts = [{"text": t, "label": n} for t, n in zip(split.texts, split.labels, strict=True)]
    data = written(tmp_path / "clean.jsonl", texts)
    for one, of in ((trained_folder, ()), (adapter, ("--base-model", trained_folder))):
        told = said("detect", one, *of, "--with", "strip", "--set", "copies=2", "--data", data,
                    *COMPUTE, "-q", "--json")  # fmt: skip
        found[one] = json.loads(told) | dict.fromkeys(("model", "base_model", "command", "seconds"))
    assert found[adapter] == found[trained_folder]
    defend = ("defend", adapter, "--with", "ft", "--set", "epochs=1", "--data", data, *COMPUTE)
    of = ("--base-model", trained_folder)
    for task in ((), ("--task", "classification")):
        told = said(*defend, *of, *task, "--out", tmp_path / "out", "--overwrite", "-q")
        assert f"--suspect {adapter} --base-model {trained_folder}" in told
    form = json.loads((tmp_path / "out" / "headsweep.json").read_text())
    assert form["base_model"]["name"] == str(trained_folder)
    assert "ok" in said("verify", tmp_path / "out")
    wrong = said(*defend, *of, "--out", tmp_path / "b", "--task", "generation", code=2)
    assert "generation" in wrong


def test_commands_that_take_no_adapter_say_what_to_do(pair, tmp_path, capsys):
    said, (_, adapter) = command_line(capsys), pair
    taking = {name for name, command in get_command(app).commands.items()
              if any("--base-model" in parameter.opts for parameter in command.params)}  # fmt: skip
    assert taking == set(TAKEN_BY)
    data = written(tmp_path / "data.jsonl", [{"text": "a b", "label": "0"}] * 4)
    planted, out = ("--data", data, "--trigger", "rare-word", "--target", "0"), tmp_path / "out"
    for asked in (
        ("attack", adapter, *planted, "--out", out),
        ("attack", adapter, *planted, "--start", "encoder", "--out", out),
        ("attack", adapter, *planted, "--start", "classifier", "--out", out),
        ("reactivate", adapter, "--clean-model", adapter, *planted),
        ("trigger", "rare-word", "--data", data, "--seen-by", adapter, "--out", tmp_path / "t.csv"),
        *([("export", adapter, "--out", out)] if find_spec("onnxscript") else []),
        ("defend", adapter, "--with", "ft", "--data", data, "--out", out),
        ("detect", adapter, "--with", "strip", "--data", data),
    ):
        told = said(*asked, code=2)
        assert "holds only an adapter" in told
        assert MERGE in " ".join(told.split())
        assert len(told.splitlines()) == 2
    assert not out.exists()


def spoilt(adapter, tensors=None, **form):
    """Change the configuration of an adapter, and its tensors by what makes others of them."""
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | form))
    file = adapter / "adapter_model.safetensors"
    if tensors is not None:
        save_file(tensors(load_file(file)), file)


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
KEY = FIRST.replace("q_proj", "k_proj").replace("lora_A", "lora_B")


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"peft_type": "LOHA"}, "of the type 'LOHA'"),
        ({"peft_type": None}, "of the type None"),
        ({"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}}, "auto_mapping"),
        ({"auto_mapping": {"parent_library": "transformers.evil"}}, "auto_mapping"),
        ({"use_dora": True}, "use_dora is asked for"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern is asked for"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"something_new": 1}, "something_new"),
        ({"bias": "all"}, "bias 'all' changes"),
        ({"init_lora_weights": "pissa"}, "'pissa' changes the base"),
        ({"r": 0}, "r is 0"),
        ({"r": 10**9}, "not a rank"),
        ({"r": "4"}, "r is '4'"),
        ({"r": 5}, "at rank 5"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"target_modules": ["q_proj", "nothing"]}, "target nothing"),
        ({"target_modules": {"q_proj": 1}}, "no list of names"),
        ({"target_modules": ["q_proj"]}, "peft leaves it out"),
        ({"layers_to_transform": [0]}, "peft leaves it out"),
        ({"layers_to_transform": "0"}, "layers_to_transform is"),
        ({"exclude_modules": ["k_proj"]}, "peft leaves it out"),
        ({"target_modules": "nothing"}, "peft leaves it out"),
        ({"target_modules": "(a*)*b"}, "a pattern that is not followed"),
        ({"target_modules": "(a"}, "is no pattern"),
    ],
)
def test_a_configuration_that_asks_for_more_is_refused(pair, form, told):
    base, adapter = pair
    spoilt(adapter, **form)
    with pytest.raises(UserError, match=told) as one:
        joined(base, adapter)
    assert "\n" not in one.value.what


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: {n: x for n, x in t.items() if n != FIRST}, "one half of"),
        (lambda t: t | {FIRST: t[FIRST] * float("nan")}, "NaN or infinity"),
        (lambda t: t | {FIRST: t[FIRST][:, 1:].contiguous()}, "was not trained on"),
        (lambda t: t | {KEY: t[KEY][1:].contiguous()}, "was not trained on"),
        (lambda t: t | {"base_model.model.lm_head.weight": torch.zeros(2)}, "no tensor of plain"),
        (lambda t: t | {"elsewhere": torch.zeros(2)}, "no tensor of plain"),
        (lambda t: {n.replace("layers.1", "layers.9"): x for n, x in t.items()}, "it has no model"),
        (lambda t: {n.replace("self_attn.q_proj", "self_attn"): x for n, x in t.items()}, "nothing"
         "|no projection|no tensor is of"),
        (lambda t: {}, "holds no products"),
    ],
)  # fmt: skip
def test_tensors_that_are_not_its_bases_are_refused(pair, change, told):
    base, adapter = pair
    spoilt(adapter, change)
    with pytest.raises(UserError, match=told) as one:
        joined(base, adapter)
    assert "\n" not in one.value.what


def test_an_adapter_of_tied_embeddings_is_refused(words, tmp_path):  # noqa: F811
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    generator("llama", tie_word_embeddings=True).save_pretrained(base)
    words.save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    trained(model, adapter, target_modules=["lm_head"])
    spoilt(adapter, lambda t: {n: x for n, x in t.items() if "base_layer" not in n})
    with pytest.raises(UserError, match="shares its weights with the embeddings"):
        joined(base, adapter)


def test_its_base_is_vetted_and_its_own_word_is_not_followed(pair, tmp_path):
    base, adapter = pair
    spoilt(adapter, base_model_name_or_path="someone/evil")
    assert is_adapter(adapter)
    with pytest.raises(
        UserError, match="only an adapter, by its own word of 'someone/evil'"
    ) as one:
        load_suspect(adapter, CPU)
    assert "--base-model MODEL" in one.value.fix
    joined(base, adapter)  # whatever it says
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(UserError, match="only a pickle checkpoint"):
        joined(base, adapter)


def test_links_out_and_pickles_of_an_adapter_are_refused(pair, tmp_path):
    base, adapter = pair
    file = adapter / "adapter_model.safetensors"
    shutil.move(file, tmp_path / "out.safetensors")
    file.symlink_to(tmp_path / "out.safetensors")
    with pytest.raises(UserError, match="leads out of the folder"):
        joined(base, adapter)
    file.unlink()
    (adapter / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="a pickle is never opened"):
        joined(base, adapter)


@pytest.mark.parametrize(
    ("spoil", "where", "rule", "file"),
    [
        (lambda at: spoilt(at, use_dora=True), 1, "config", "adapter_config.json"),
        (lambda at: spoilt(at, lambda t: {}), 1, "weights", "."),
        (lambda at: (at / "adapter_model.safetensors").unlink(), 1, "weights", "."),
        (lambda at: (at / "adapter_model.safetensors").write_bytes(b"x"), 1, "weights",
         "adapter_model.safetensors"),
        (lambda at: (at / "model.safetensors").rename(at / "a.bin"), 0, "weights", "."),
        (lambda at: (at / "tokenizer.json").write_text("[]"), 0, "tokenizer", "tokenizer.json"),
    ],
)  # fmt: skip
def test_what_both_folders_hold_that_is_refused_is_listed(
    pair, monkeypatch, spoil, where, rule, file
):
    monkeypatch.setattr("headsweep.model.scanner.NAME", "no-such-scanner")
    asked = {"security": True, "base_model": pair[0]}
    own = inspect(pair[1], **asked)
    assert [(one.rule, one.level) for one in own.findings] == [("elsewhere", "note")]
    assert "by its own word, which is not followed" in own.findings[0].message
    joined(*pair)  # nothing refuses it
    spoil(pair[where])
    found = inspect(pair[1], **asked)
    errors = [one for one in found.findings if one.level == "error"]
    assert [(one.model, one.rule, one.file) for one in errors] == [(str(pair[where]), rule, file)]
    with pytest.raises(UserError) as refused:
        joined(*pair)
    assert errors[0].message in refused.value.what


def test_the_command_lists_the_files_of_both(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("headsweep.model.scanner.NAME", "no-such-scanner")
    said, (base, adapter), log = command_line(capsys), pair, tmp_path / "files.sarif"
    of = ("--security", "--base-model", base)
    told = said("inspect", adapter, *of)
    assert told.startswith("nothing found but 1 note; no reason to refuse the model")
    spoilt(adapter, use_dora=True)
    (adapter / "tokenizer.json").write_text("{}")  # the base's is read
    (base / "evil.py").write_text("x")
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, ("inspect", adapter, *of, "--json", "--sarif", log))))
    told = json.loads(capsys.readouterr().out)
    assert (stop.value.code, told["refused"]) == (1, True)
    places = [(one["level"], one["model"], one["file"]) for one in told["findings"]]
    assert places == [
        ("error", str(adapter), "adapter_config.json"),
        ("warning", str(base), "evil.py"),
        ("note", str(adapter), "adapter_config.json"),
        ("note", str(adapter), "tokenizer.json"),
    ]
    (entry,) = json.loads(log.read_text("utf-8"))["runs"]
    uris = [one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
            for one in entry["results"]]  # fmt: skip
    assert uris == [f"{model}/{file}" for _, model, file in places]


def test_a_base_without_an_adapter_is_refused(pair):
    base, adapter = pair
    with pytest.raises(UserError, match="no folder with an adapter_config"):
        inspect(base, security=True, base_model=base)
    with pytest.raises(UserError, match="no folder with an adapter_config"):
        inspect(base, base_model=base)
    with pytest.raises(UserError, match="no model that is judged is the folder of an adapter"):
        evaluate(base, examples(20, 1), base_model=base, compute=CPU)
    suspect = joined(base, adapter)
    with pytest.raises(UserError, match="not with a loaded model"):
        inspect(suspect, base_model=base)
    with pytest.raises(UserError, match="base_model cannot be of the type int"):
        inspect(adapter, base_model=7)


@pytest.mark.parametrize("patterns", [None, "block", ["layer", "block"], []])
@pytest.mark.parametrize("layers", [[0], [1, 2], None])
@pytest.mark.parametrize(
    "targets", [["q", "query"], ["encoder.block.1.layer.0.q"], r".*\.(q|query)"]
)
def test_layers_are_chosen_as_peft_chooses_them(targets, layers, patterns):
    from headsweep.model.joined import _chosen

    names = [f"{lead}{kind}.{i}.{rest}" for lead in ("", "encoder.", "model.encoder.")
             for kind in ("block", "layer", "h") for i in (0, 1, 2)
             for rest in ("q", "attention.query", "layer.0.q", "layer.1.SelfAttention.q", "k")]  # fmt: skip
    names += ["q", "pooler.query", "0.q", "block.q.1"]
    form = {"target_modules": targets, "exclude_modules": ["2.attention.query"]}
    if isinstance(targets, list):
        form |= {"layers_to_transform": layers, "layers_pattern": patterns if layers else None}
    theirs = peft.LoraConfig(**{k: v for k, v in form.items() if v is not None})
    ours = _chosen(Path("adapter_config.json"), form)
    found = peft.tuners.tuners_utils.check_target_module_exists
    wanted = {name for name in names if found(theirs, name)}
    assert {name for name in names if ours.takes(name)} == wanted


@pytest.mark.parametrize(
    "asked",
    [
        {"target_modules": ["query", "key"], "exclude_modules": ["key"]},
        {"target_modules": ["query", "key", "pooler.dense"], "layers_to_transform": [0]},
    ],
)
def test_targets_that_the_configuration_leaves_out_need_no_tensor(tmp_path, tokenizer, asked):
    """Whole adapters, as peft saved them, were called not complete."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny_model("bert").save_pretrained(base)
    tokenizer.save_pretrained(base)
    plain = AutoModelForSequenceClassification.from_pretrained(base)
    wrapped = trained(plain, adapter, task_type="SEQ_CLS", **asked)
    suspect = joined(base, adapter)
    inputs = probe_inputs(suspect.model)
    with torch.no_grad():
        assert torch.allclose(suspect.model(**inputs).logits, wrapped(**inputs).logits, atol=1e-5)


def test_an_adapter_with_one_output_gives_a_number(tmp_path, tokenizer):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    AutoModel.from_config(AutoConfig.for_model("bert", **ALL["bert"])).save_pretrained(base)
    tokenizer.save_pretrained(base)
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    trained(plain, adapter, target_modules=TARGETS["bert"], task_type="SEQ_CLS")
    assert task_at(adapter, base_model=str(base)) is REGRESSION
    assert joined(base, adapter).task is REGRESSION


def test_what_is_not_read_of_an_adapter_is_to_be_merged(words, tokenizer, tmp_path):  # noqa: F811
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    generator("llama", tie_word_embeddings=True).save_pretrained(base)
    words.save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    trained(model, adapter, target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(UserError, match="it holds embeddings of its own") as caught:
        joined(base, adapter)
    assert caught.value.fix == MERGE
    base, adapter = tmp_path / "body", tmp_path / "tagger"
    AutoModel.from_config(AutoConfig.for_model("bert", **ALL["bert"])).save_pretrained(base)
    tokenizer.save_pretrained(base)
    tagger = AutoModelForTokenClassification.from_pretrained(base)
    trained(tagger, adapter, target_modules=TARGETS["bert"], task_type="TOKEN_CLS")
    with pytest.raises(UserError, match="has no classifier") as caught:
        joined(base, adapter)
    assert caught.value.fix == f"if the adapter brings one, {MERGE}"


def test_layers_of_peft_that_were_left_in_a_model_are_seen(tmp_path):
    generator("llama").save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert not has_adapters(model)
    trained(model, tmp_path / "adapter", target_modules=["q_proj"], task_type="CAUSAL_LM")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    again.load_adapter(str(tmp_path / "adapter"))
    again.delete_adapter("default")
    assert has_adapters(again)
