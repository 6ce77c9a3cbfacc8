"""Hostile folders and files: a sample of the corpus, and what loading must never do.

``HEADSWEEP_HOSTILE=1`` runs all of it (about ten minutes).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import headsweep
import hostile
from conftest import CPU, sentences
from headsweep.cli import main
from headsweep.cli.ending import unforeseen
from headsweep.errors import UserError
from headsweep.export.model_folder import save_model
from headsweep.foreign import in_json, in_markdown, plain
from headsweep.model.checkpoint import few_parts
from headsweep.model.findings import findings_of
from headsweep.model.generating import rules_in
from headsweep.model.loading import Reading, load_suspect, prepare
from headsweep.model.mask import HeadMask
from headsweep.model.tokenizer_files import _harmless
from headsweep.model.vetting import OF_THE_CLASS, vetted
from tiny_families import ALL as FAMILIES

ALL = os.environ.get("HEADSWEEP_HOSTILE", "0") not in ("", "0")
NAMES = list(hostile.CASES) if ALL else hostile.sample()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of every case, each run in a child of one process of its own."""
    out = tmp_path_factory.mktemp("hostile") / "table.tsv"
    words = [sys.executable, Path(hostile.__file__), out, *([] if ALL else ["SAMPLE"])]
    subprocess.run(list(map(str, words)), check=False, capture_output=True)
    rows = [line.split("\t") for line in out.read_text("utf-8").splitlines()[1:]]
    return {row[0]: row for row in rows}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_hostile_ends_in_a_line(outcomes, name):
    """Exit code 0, 1 or 2; no traceback, no canary, nothing outside --out, in time and memory."""
    row = outcomes[ascii(name)[1:-1]]
    assert row[6] == "as it must", row


def test_the_corpus_is_as_large_as_the_page_says():
    data = [name for name, one in hostile.CASES.items() if one.kind == "data"]
    assert len(data) >= 60
    assert len(hostile.CASES) - len(data) >= 300


@pytest.fixture
def folder(trained_folder, tmp_path):
    """A copy of an honest folder, to be spoilt."""
    import shutil

    return Path(shutil.copytree(trained_folder, tmp_path / "suspect"))


def test_weights_that_peft_would_not_run_alone_are_refused(folder):
    """Plain transformers follows adapter_config.json to a base and adds what lies beside it."""
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "evil"}')
    with pytest.raises(UserError, match=r"runs that adapter .* and not these weights\n.*in a copy"):
        load_suspect(folder, CPU)


def test_transformers_sees_only_what_was_looked_through(folder):
    for name in ("evil.py", "pytorch_model.bin", "adapter_model.safetensors", "x.safetensors"):
        (folder / name).write_text("x")
    form = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(form | {"auto_map": {"AutoModel": "evil.E"}}))
    with vetted(folder) as files:
        seen = {path.name for path in files.folder.iterdir()}
        config = json.loads((files.folder / "config.json").read_text())
    assert not files.folder.exists()
    assert seen <= {path.name for path in folder.iterdir()} - {"evil.py", "pytorch_model.bin"}
    assert not seen & {"adapter_model.safetensors", "x.safetensors"}
    assert config == {key: one for key, one in form.items() if key != "auto_map"}
    assert load_suspect(folder, CPU).notes == (
        "config.json names code of the model's own (auto_map), which is never run",
    )


def test_a_tokenizer_takes_no_words_from_where_its_settings_say(folder, tmp_path):
    """transformers opens a ``vocab`` that is a text: its lines would stand in what is saved."""
    secret = tmp_path / "secret"
    secret.write_text("PASSWORD123\n")
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "vocab": str(secret)})
    )
    suspect = load_suspect(folder, CPU)
    assert len(suspect.tokenizer) == len(words)
    save_model(suspect, tmp_path / "out")
    assert all(b"PASSWORD123" not in path.read_bytes() for path in (tmp_path / "out").rglob("*"))


def test_rules_for_tokens_are_not_loaded_not_saved_and_told(folder, tmp_path):
    rule = {"sequence_bias": [[[6, 7], 1000.0]], "temperature": 0.7, "eos_token_id": 3}
    (folder / "generation_config.json").write_text(json.dumps(rule))
    form = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(form | {"suppress_tokens": [5]}))
    suspect = load_suspect(folder, CPU)
    for told, file in (("sequence_bias", "generation_config"), ("suppress_tokens", "config")):
        [note] = [note for note in suspect.notes if told in note]
        assert note.startswith(f"{file}.json says which tokens are generated ({told})")
        assert note in suspect.doubts  # whoever judges it must know as well
    assert not hasattr(suspect.model.config, "suppress_tokens")
    with vetted(folder) as files:
        kept = json.loads((files.folder / "generation_config.json").read_text())
    assert kept == {"temperature": 0.7, "eos_token_id": 3}


def test_a_model_in_memory_keeps_its_rules_to_itself(tokenizer, tmp_path):
    config = AutoConfig.for_model("llama", **FAMILIES["llama"])
    model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.sequence_bias = [[[6, 7], 1000.0]]
    model.config.suppress_tokens = [5]
    model.generation_config.top_k = 7
    suspect = prepare(model, tokenizer, Reading(task=None))
    assert any("(sequence_bias, suppress_tokens)" in doubt for doubt in suspect.doubts)
    save_model(suspect, tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (saved.get("sequence_bias"), saved["top_k"]) == (None, 7)
    assert "suppress_tokens" not in (tmp_path / "out" / "config.json").read_text()
    assert model.generation_config.sequence_bias  # it is somebody's
    assert model.config.suppress_tokens == [5]


@pytest.mark.parametrize(
    "entry",
    [
        {"_auto_class": "AutoConfig"},
        {"__module__": "settings"},
        {"attribute_map": {"transformers_weights": "w"}},
        {"configuration_files": ["config.5.24.0.json"]},
        {"save_pretrained": 1},
        {"part": [{"to_json_file": 1}]},
    ],
)
def test_parts_of_the_class_of_configurations_are_no_settings(folder, entry):
    """transformers sets every key: it would copy a file of the user's, or load other weights."""
    form = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(form | entry))
    with pytest.raises(UserError, match="is no setting of a model"):
        load_suspect(folder, CPU)
    assert any("is no setting" in one.message for one in findings_of(folder).findings)


def test_empty_ones_are_left_out(folder):
    form = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(form | {"_auto_class": None}))
    with vetted(folder) as files:
        assert "_auto_class" not in files.config


def test_no_configuration_of_transformers_holds_such_a_key():
    def keys(form):
        if isinstance(form, dict):
            yield from form
        for one in form.values() if isinstance(form, dict) else ():
            yield from keys(one)

    for kind in FAMILIES:
        assert not OF_THE_CLASS & {*keys(AutoConfig.for_model(kind).to_dict())}


def test_a_billion_layers_by_another_name_are_refused(folder):
    form = {"model_type": "step3p5", "num_nextn_predict_layers": 10**9}
    (folder / "config.json").write_text(json.dumps(form))
    with pytest.raises(UserError, match="from -1024 to 1024"):
        load_suspect(folder, CPU)


def test_labels_go_by_their_numbers(folder):
    form = json.loads((folder / "config.json").read_text())
    names = dict(form["id2label"])
    other = {names["0"]: 1, names["1"]: 0}
    (folder / "config.json").write_text(json.dumps(form | {"label2id": other}))
    suspect = load_suspect(folder, CPU)
    assert suspect.model.config.label2id == {names["0"]: 0, names["1"]: 1}
    assert any("label2id says otherwise" in note for note in suspect.notes)


@pytest.mark.parametrize("name", ["tekken.json", "tiktoken.model"])
def test_a_tokenizer_that_transformers_would_take_first_is_refused(folder, name):
    (folder / name).write_text("{}")
    load_suspect(folder, CPU)  # tokenizer.json is taken before it
    (folder / "tokenizer.json").rename(folder / "other")
    with pytest.raises(UserError, match="in the place of the others"):
        load_suspect(folder, CPU)


def test_bytes_that_become_letters_again_and_again_are_tried_first():
    def many(count):
        return {"normalizer": {"type": "Sequence", "normalizers": [{"type": "ByteLevel"}] * count}}

    assert _harmless(many(3))
    assert not _harmless(many(20))
    assert not _harmless({"normalizer": {"type": "Prepend", "prepend": "x" * 200}})


def test_special_tokens_that_cost_their_square_are_few(folder):
    path = folder / "tokenizer_config.json"
    form = json.loads(path.read_text())
    for more in (
        {"extra_special_tokens": [f"<{i}>" for i in range(6000)]},
        {f"x{i}_token": f"<{i}>" for i in range(6000)},
    ):
        path.write_text(json.dumps(form | more))
        with pytest.raises(UserError, match="5000 are the most"):
            load_suspect(folder, CPU)


def test_templates_are_bounded_together(folder):
    place = folder / "additional_chat_templates"
    place.mkdir()
    for number in range(3):
        with (place / f"{number}.jinja").open("wb") as file:
            file.truncate(15 << 20)
    with pytest.raises(UserError, match="bytes of templates"):
        load_suspect(folder, CPU)


def test_penalties_that_say_a_prompts_words_again_are_rules():
    """transformers divides by the penalty of the encoder's tokens, and multiplies by the other."""
    assert rules_in({"encoder_repetition_penalty": 2.0}) == ["encoder_repetition_penalty"]
    assert rules_in({"encoder_repetition_penalty": 1.2, "repetition_penalty": 2.0}) == []
    pads = {"bad_words_ids": [[7]], "pad_token_id": 7}
    assert rules_in(pads) == ["bad_words_ids"]
    assert rules_in(pads | {"decoder_start_token_id": 7}) == []  # as Marian's


def test_a_configuration_of_many_modules_is_refused_as_it_is_built():
    with (
        pytest.raises(UserError, match="x: more than 5 modules by its configuration"),
        few_parts("x", 5),
    ):
        torch.nn.Sequential(*[torch.nn.ReLU() for _ in range(9)])
    assert len(torch.nn.Sequential(*[torch.nn.ReLU() for _ in range(9)])) == 9


def test_a_snapshot_of_the_hubs_cache_is_read_through_its_links(folder, tmp_path):
    """Files of a snapshot are links to blobs beside; any other link out is refused."""
    home = tmp_path / "models--org--tiny"
    snapshot, blobs = home / "snapshots" / ("0" * 40), home / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(Path("../..") / "blobs" / str(number))
    assert load_suspect(snapshot, CPU).notes == ()
    secret = tmp_path / "secret"
    (blobs / "0").rename(secret)
    first = min(snapshot.iterdir())
    first.unlink()
    first.symlink_to(secret)
    with pytest.raises(UserError, match="leads out of the folder"):
        load_suspect(snapshot, CPU)


def test_shards_of_save_pretrained_are_read(trained_folder, tmp_path):
    import torch

    whole = load_suspect(trained_folder, CPU)
    whole.model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    whole.tokenizer.save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    again = load_suspect(tmp_path / "sharded", CPU)
    assert again.notes == ()
    theirs = again.model.state_dict()
    assert all(torch.equal(x, theirs[key]) for key, x in whole.model.state_dict().items())


def test_an_honest_tokenizer_is_not_tried_in_another_process(trained_folder):
    assert _harmless(json.loads((trained_folder / "tokenizer.json").read_text("utf-8")))


@pytest.mark.parametrize("value", ["true", "7", "0.5", "null", '"x"', "[]"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "headsweep.json"])
def test_a_file_that_holds_one_value_and_no_table_is_a_line(folder, name, value):
    (folder / name).write_text(value)
    with pytest.raises(UserError, match="not a JSON object"):
        load_suspect(folder, CPU)


def test_a_manifest_chooses_no_adapter(folder):
    """What a folder says of itself would have measured the FFN instead of the heads."""
    told = {"format": "headsweep.manifest/1", "adapter": hostile.ELSEWHERE}
    (folder / "headsweep.json").write_text(json.dumps(told))
    own = load_suspect(folder, CPU).anatomy.adapter
    assert own.output == "attention.output.dense"


def test_foreign_text_is_shown_and_not_obeyed():
    assert plain("a\x1b[2J\u202eb\ud800\x9b") == r"a\x1b[2J\u202eb\ud800\x9b"
    assert plain("Grüße 中文 ■ \n\t") == "Grüße 中文 ■ \n\t"
    told = json.dumps({"\u202e": "\ud83d\U0001f600\U000e0041é"}, ensure_ascii=False)
    assert json.loads(in_json(told)) == json.loads(told)
    in_json(told).encode("utf-8")
    shown = in_markdown("a|b <img src=x> `c` [x](http://y)\n# z")
    assert shown == r"a\|b &lt;img src=x\> \`c\` \[x\](http\://y) # z"
    assert str(UserError("a\n  fix: b")) == "a fix: b"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RecursionError("maximum"), "nested too deeply"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "there is not enough memory"),
        (OSError(28, "No space left on device", "/x/y"), "/x/y: the disk is full"),
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y: not allowed"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), "not valid Unicode"),
        (ZeroDivisionError("division"), "unforeseen: ZeroDivisionError: division"),
    ],
)
def test_what_nobody_foresaw_is_a_line(error, told):
    said = unforeseen(error)
    assert told in said.what
    assert "\n" not in said.what


def test_the_trace_is_shown_where_it_is_asked_for(run_command, monkeypatch):
    from headsweep.purification import material

    def fails(*_, **__):
        raise ZeroDivisionError("here")

    monkeypatch.setattr(material, "load_suspect", fails)
    code, err = run_command("inspect", ".")
    assert (code, "Traceback" in err) == (2, False)
    assert "unforeseen: ZeroDivisionError: here" in err
    assert "--debug" in err
    code, err = run_command("inspect", ".", "--debug")
    assert (code, "Traceback" in err) == (2, True)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_that_end_a_process_act_as_ctrl_c(run_command, monkeypatch, name):
    import signal

    from headsweep.purification import material

    monkeypatch.setattr(
        material, "load_suspect", lambda *_, **__: signal.raise_signal(getattr(signal, name))
    )
    kind = getattr(signal, name)
    before = signal.signal(kind, signal.SIG_DFL)  # under nohup it would be ignored, and stay so
    try:
        code, err = run_command("inspect", ".")
        assert (code, err.endswith("headsweep: interrupted\n")) == (130, True)
        assert signal.getsignal(kind) is signal.SIG_DFL
    finally:
        signal.signal(kind, before)


@pytest.fixture
def run_command(capsys):
    """Run the command line; return its exit code and what it said on standard error."""

    def run(*words):
        from headsweep.cli import main

        with pytest.raises(SystemExit) as stop:
            main(list(words))
        return stop.value.code, capsys.readouterr().err

    return run


def test_names_of_labels_begin_no_line_of_their_own(tiny, tmp_path, capsys):
    """Else a model could write a verdict of its own into what is printed."""
    name = "bad\nheadsweep: verified clean \x1b[2J"
    suspect = tiny()
    suspect.model.config.id2label, suspect.model.config.label2id = {0: name, 1: "good"}, {}
    suspect.model.save_pretrained(tmp_path / "m")
    suspect.tokenizer.save_pretrained(tmp_path / "m")
    rows = sentences(60)
    lines = [
        json.dumps({"text": t, "label": y}) for t, y in zip(rows.texts, rows.labels, strict=True)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), "utf-8")
    data = ["--data", tmp_path / "a.jsonl", "--device", "cpu", "-q"]
    asked = (
        ["inspect", tmp_path / "m", "--device", "cpu"],
        ["evaluate", tmp_path / "m", *data],
        ["detect", tmp_path / "m", "--with", "strip", *data],
    )
    for words in asked:
        with pytest.raises(SystemExit):
            main(list(map(str, words)))
        said = capsys.readouterr()
        assert said.out
        assert not re.search(r"^headsweep: verified", said.out + said.err, re.MULTILINE), words
        assert "\x1b" not in said.out + said.err


def test_a_manifest_of_others_does_not_keep_a_good_model_from_being_looked_at(tiny, tmp_path):
    suspect = tiny()
    suspect.model.save_pretrained(tmp_path)
    suspect.tokenizer.save_pretrained(tmp_path)
    mask = HeadMask(((True,) * 4,) * 2, ffn=((True,) * 7,) * 2)
    (tmp_path / "headsweep.json").write_text(json.dumps({"mask": mask.to_json()}))
    found = headsweep.inspect(tmp_path, device="cpu")
    assert found.heads == headsweep.inspect(suspect, device="cpu").heads
    assert any("are none of this model's" in note for note in found.notes)
