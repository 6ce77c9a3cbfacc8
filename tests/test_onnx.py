"""``headsweep export``: the ONNX file against plain transformers, one text at a time."""

from __future__ import annotations

import copy
import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import headsweep
from conftest import sentences, tiny_model
from headsweep import FineTune, Split
from headsweep.cli import main
from headsweep.errors import BoundMissed, UserError
from headsweep.export import folders, onnx_file
from headsweep.measure.accuracy import Accuracy
from headsweep.purification.bound import Bound
from headsweep.texts.words import REGRESSION
from headsweep.verbs import exporting
from headsweep.verbs.exporting import Written

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed ([onnx])")
pytest.importorskip("onnxscript", reason="onnxscript is not installed ([onnx])")


def through_onnx(folder, texts, name="model.onnx", size=None):
    """Return the logits of a file for texts in batches of a size, with nothing of headsweep."""
    session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for start in range(0, len(texts), size or len(texts)):
        batch = list(texts[start : start + (size or len(texts))])
        made = tokenizer(batch, padding=True, return_tensors="np")
        found += session.run(None, {one.name: made[one.name] for one in session.get_inputs()})
    return np.concatenate(found)


def plainly(folder, texts):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        found = [model(**tokenizer(text, return_tensors="pt")).logits for text in texts]
    return torch.cat(found).numpy()


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(one) for one in arguments])
    return stop.value.code


@pytest.fixture(scope="module")
def exported(trained_folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("onnx")
    data = place / "clean.csv"
    split = sentences(120, seed=7)
    rows = [f"{t},{('bad', 'good')[n]}" for t, n in zip(split.texts, split.labels, strict=True)]
    data.write_text("\n".join(["text,label", *rows]) + "\n")
    found = headsweep.export_onnx(
        trained_folder, place / "out", int8=True, data=data, progress=False
    )
    return found, data


def test_the_file_answers_as_plain_transformers_at_three_shapes(exported, trained_folder):
    found, _ = exported
    texts = sentences(40, seed=9).texts
    plain = plainly(trained_folder, texts)
    assert np.abs(through_onnx(found.folder, texts[:1]) - plain[:1]).max() < 1e-5
    assert np.abs(through_onnx(found.folder, texts[1:8]) - plain[1:8]).max() < 1e-5
    assert np.abs(through_onnx(found.folder, texts) - plain).max() < 1e-5


def test_accuracies_are_those_counted_by_hand(exported, trained_folder):
    found, _ = exported
    split = sentences(120, seed=7)
    labels = np.array(split.labels)
    by_hand = [
        int((plainly(trained_folder, split.texts).argmax(1) == labels).sum()),
        int((through_onnx(found.folder, split.texts).argmax(1) == labels).sum()),
    ]
    # in eight bits the scale of an activation is that of its batch
    small = through_onnx(found.folder, split.texts, "model_quantized.onnx", 1)
    assert [found.before.right, found.files[0].accuracy.right] == by_hand
    assert abs(found.files[1].accuracy.right - int((small.argmax(1) == labels).sum())) <= 3
    told = json.loads((found.folder / "export.json").read_text())
    assert told["format"] == "headsweep.export/1"
    assert [one["data"]["right"] for one in told["files"]] == [
        one.accuracy.right for one in found.files
    ]
    assert told["files"][0]["bytes"] == (found.folder / "model.onnx").stat().st_size
    assert told["versions"]["onnxruntime"] == onnxruntime.__version__


def test_eight_bits_differ_but_little_and_the_file_is_smaller(exported):
    found, _ = exported
    whole, small = found.files
    assert 0 < small.difference < 0.5
    assert whole.difference < 1e-5 < small.difference
    assert small.size < whole.size


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_decoder_reads_its_last_token_behind_padding(family, tokenizer, tmp_path):
    model = tiny_model(family)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(tmp_path / "model")
    own = copy.deepcopy(tokenizer)
    own.model_input_names = ["input_ids", "attention_mask"]  # GPT-2 would add types to its tokens
    own.save_pretrained(tmp_path / "model")
    found = headsweep.export_onnx(tmp_path / "model", tmp_path / "out", progress=False)
    texts = sentences(9, seed=3).texts
    plain = plainly(tmp_path / "model", texts)
    assert np.abs(through_onnx(found.folder, texts) - plain).max() < 1e-4
    assert found.before is None
    assert "data" not in found.to_json()["files"][0]


def writing_copies(monkeypatch, whole):
    """Let a file of the same model, written before, be the next: the exporter takes its time."""

    def write(suspect, path, given):
        return onnx_file.OnnxFile.opened(Path(shutil.copy(whole, path)))

    monkeypatch.setattr(onnx_file, "write", write)


def test_a_file_that_answers_otherwise_is_not_written(
    exported, trained_folder, tmp_path, monkeypatch
):
    writing_copies(monkeypatch, exported[0].folder / "model.onnx")
    write = onnx_file.write

    def other(suspect, path, given):
        file = write(suspect, path, given)
        with torch.no_grad():
            suspect.model.classifier.bias += 1
        return file

    monkeypatch.setattr(onnx_file, "write", other)
    with pytest.raises(UserError, match=r"answers otherwise than the model: logits differ by 1"):
        headsweep.export_onnx(trained_folder, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_the_command_line(exported, trained_folder, tmp_path, capsys, monkeypatch):
    writing_copies(monkeypatch, exported[0].folder / "model.onnx")
    out = tmp_path / "out"
    assert run("export", trained_folder, "--out", out, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == str(out)
    assert told["files"][0]["file"] == "model.onnx"
    assert run("export", trained_folder, "--out", out) == 2
    assert "exists already" in capsys.readouterr().err
    assert run("export", trained_folder, "--out", out, "--overwrite", "-q") == 0
    assert "model.onnx" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--int8"], "give --data FILE"),
        (["--max-drop", "0.1"], "--max-drop is of --int8"),
        (["--format", "tflite"], "unknown value of --format 'tflite'"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--adapter", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_mistakes_are_said_before_any_work(more, said, trained_folder, tmp_path, capsys):
    assert run("export", trained_folder, "--out", tmp_path / "out", *more) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out").resolve() not in folders._RESERVED


def test_a_model_that_the_exporter_cannot_follow(trained_folder, tmp_path, monkeypatch):
    def fails(*given, **more):
        raise RuntimeError("\x1b[31mno such\x1b[0m operator\nand much more")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(UserError, match=r"cannot write .* as ONNX: no such operator\n"):
        headsweep.export_onnx(trained_folder, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_what_caused_a_failure_is_said_and_its_graphs_are_not(
    trained_folder, tmp_path, monkeypatch, capsys
):
    def fails(*given, **more):
        print("class GraphModule: " * 100, file=sys.stderr)
        raise RuntimeError("This is step 1/3. Next steps:") from ValueError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(UserError, match="as ONNX: no such operator"):
        headsweep.export_onnx(trained_folder, tmp_path / "out", progress=False)
    assert "GraphModule" not in capsys.readouterr().err


def test_data_of_texts_of_one_token_is_exported(trained_folder, tmp_path):
    """An exporter holds a dimension of one for fixed."""
    model = AutoModelForSequenceClassification.from_pretrained(trained_folder)
    tokenizer = AutoTokenizer.from_pretrained(trained_folder)
    tokenizer.backend_tokenizer.post_processor = None  # no special tokens, as GPT-2's
    split = Split(("good", "bad") * 10, (1, 0) * 10)
    found = headsweep.export_onnx(
        model, tmp_path / "out", data=split, tokenizer=tokenizer, progress=False
    )
    assert found.files[0].accuracy.examples == 20


def test_the_model_that_is_exported_is_not_replaced(tokenizer, tmp_path):
    done = headsweep.purify(
        tiny_model("bert"), sentences(60), tokenizer=tokenizer, strategy="random", max_drop=0.9,
        heal=FineTune(0), progress=False,
    )  # fmt: skip
    folder = done.save(tmp_path / "whole")
    for model in (
        AutoModelForSequenceClassification.from_pretrained(folder),
        headsweep.load(folder),
    ):
        with pytest.raises(UserError, match="would be replaced"):
            headsweep.export_onnx(
                model, folder, tokenizer=tokenizer, overwrite=True, progress=False
            )
    assert (folder / "model.safetensors").is_file()


def test_a_generator_is_refused(tmp_path, tokenizer):
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert run("export", tmp_path / "model", "--out", tmp_path / "out", "-q") == 2
    assert not (tmp_path / "out").exists()


def test_a_model_of_one_number_is_written_and_judged_by_its_own_figure(tokenizer, tmp_path, capsys):
    model = tiny_model("bert", num_labels=1, problem_type="regression", id2label={0: "score"})
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    texts = sentences(30, seed=4).texts
    plain = plainly(tmp_path / "model", texts)
    data = tmp_path / "scores.csv"
    rows = [f"{text},{float(n[0]):.5f}" for text, n in zip(texts, plain, strict=True)]
    data.write_text("\n".join(["text,label", *rows]) + "\n")
    out = tmp_path / "out"
    assert run("export", tmp_path / "model", "--out", out, "--data", data, "-q") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("share kept", "Spearman", "mean absolute error"))
    assert "accuracy" not in said
    assert np.abs(through_onnx(out, texts) - plain).max() < 1e-5
    told = json.loads((out / "export.json").read_text())
    assert told["before"]["kept"] == told["files"][0]["data"]["kept"] == 1.0


@pytest.fixture
def of_several_labels(tokenizer, tmp_path):
    """A model of three labels a text that is never sure, and data labelled as it answers."""
    names = {0: "warm", 1: "long", 2: "dull"}
    model = tiny_model(
        "bert",
        num_labels=3,
        problem_type="multi_label_classification",
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )
    tokenizer.save_pretrained(tmp_path / "model")
    texts = sentences(60, seed=4).texts
    model.save_pretrained(tmp_path / "model")
    with torch.no_grad():  # half of the texts get each label, by next to nothing
        model.classifier.bias -= torch.tensor(np.median(plainly(tmp_path / "model", texts), 0))
    model.save_pretrained(tmp_path / "model")
    logits = plainly(tmp_path / "model", texts)
    rows = [
        {"text": text, "labels": [names[i] for i in range(3) if row[i] > 0]}
        for text, row in zip(texts, logits, strict=True)
    ]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    return tmp_path, texts, logits > 0


def test_eight_bits_of_several_labels_are_held_to_micro_f1(of_several_labels, capsys, monkeypatch):
    place, texts, true = of_several_labels
    out = place / "out"
    asked = ["export", place / "model", "--out", out, "--data", place / "data.json", "--int8"]
    asked += ["--compute", "batch_size=1", "-q"]  # eight bits are scaled by all that is in a batch
    assert run(*asked, "--max-drop", "0.9") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("exact match", "micro-F1"))
    small = through_onnx(out, texts, "model_quantized.onnx", 1)
    hits, wrong = int(((small > 0) & true).sum()), int(((small > 0) != true).sum())
    f1, exact = 2 * hits / (2 * hits + wrong), ((small > 0) == true).all(1).mean()
    told = json.loads((out / "export.json").read_text())
    assert told["before"]["micro_f1"] == told["files"][0]["data"]["micro_f1"] == 1.0
    assert told["files"][1]["data"]["micro_f1"] == pytest.approx(f1, abs=1e-9)
    assert told["files"][1]["data"]["exact_match"] == pytest.approx(exact, abs=1e-9)
    assert exact < f1 < 1, "so that a bound can lie between the two"

    writing_copies(monkeypatch, shutil.copy(out / "model.onnx", place))
    between = 1 - (exact + f1) / 2  # micro-F1 holds it, exact match would not
    assert run(*asked, "--max-drop", f"{between:.6f}", "--overwrite") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run(*asked, "--max-drop", f"{(1 - f1) / 2:.6f}", "--overwrite") == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    said = " ".join(capsys.readouterr().err.split())
    assert f"in eight bits micro-F1 is {f1:.4f}, the model's own is 1.0000; at least" in said


def test_the_quantizer_leaves_no_one_listening(monkeypatch):
    """onnxruntime calls ``basicConfig``, after which every error would be printed twice."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    with onnx_file._hushed():
        logging.basicConfig(level=logging.INFO)
    assert root.handlers == []


def of_numbers(right, spearman):
    return Accuracy(100, right, {"spearman": spearman, "mean_absolute_error": 0.1}, REGRESSION)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (of_numbers(98, 0.885), ""),
        (of_numbers(98, 0.875), "in eight bits Spearman correlation is 0.8750"),
        (of_numbers(0, 0.9), "in eight bits share kept is 0.0000"),  # all moved alike
    ],
)
def test_eight_bits_of_a_number_are_held_to_its_order_and_to_its_scale(after, said):
    small = Written("model_quantized.onnx", 1, 0.1, after)
    if not said:
        exporting._hold(small, Bound(0.02), of_numbers(100, 0.9))
        return
    with pytest.raises(BoundMissed, match=said):
        exporting._hold(small, Bound(0.02), of_numbers(100, 0.9))
