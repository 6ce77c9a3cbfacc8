"""``inspect --security``: what a folder holds, listed by the rules that refuse it.

``HEADSWEEP_HOSTILE=1`` compares the two over the whole corpus of hostile folders.
"""

from __future__ import annotations

import json
import shutil
import stat
import sys
from pathlib import Path

import psutil
import pytest

import headsweep
import hostile
from conftest import CPU
from headsweep.errors import UserError
from headsweep.model import findings, scanner
from headsweep.model.findings import Findings, findings_of
from headsweep.model.loading import load_suspect
from headsweep.model.template_words import looked_for
from headsweep.model.tokenizer_files import _rewriting
from headsweep.model.vetting import left_out, vetted
from test_cli import run  # noqa: F401 - a fixture
from test_hostile import ALL

FOLDERS = {name: one for name, one in hostile.CASES.items() if one.kind not in ("data", "name")}
NAMES = [name for name in (FOLDERS if ALL else hostile.sample(100)) if name in FOLDERS]


@pytest.fixture(autouse=True)
def no_other_scanner(monkeypatch):
    """Whether one is installed on this machine must not matter here."""
    monkeypatch.setattr(scanner, "NAME", "no-such-scanner")


@pytest.fixture(autouse=True)
def memory_that_holds_still(monkeypatch):
    """What is free is told in a message, and two of them are compared."""
    free = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    home = tmp_path_factory.mktemp("bases")
    hostile.bases(home)
    return home


@pytest.fixture
def folder(bases, tmp_path):
    """A copy of an honest folder, to be spoilt."""
    return Path(shutil.copytree(bases / "bert", tmp_path / "suspect"))


def found_in(folder) -> dict[tuple[str, str], tuple[str, str]]:
    """Return level and message by rule and file."""
    found = findings_of(folder).findings
    return {(one.rule, one.file): (one.level, one.message) for one in found}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_refused_is_listed_as_refused_and_nothing_else_is(bases, tmp_path, name):
    one = FOLDERS[name]
    place = hostile.Place(
        tmp_path / "suspect", tmp_path / "canary", tmp_path / "data.csv", bases / "bert"
    )
    shutil.copytree(bases / one.family, place.folder)
    shutil.copy(bases / "clean.csv", place.data)
    one.make(place)
    try:
        with vetted(place.folder):
            refused = ""
    except UserError as error:
        refused = error.what
    found = findings_of(place.folder)
    errors = [f for f in found.findings if f.level == "error" and f.rule != "manifest"]
    assert bool(errors) == bool(refused), (refused, found.findings)
    assert not refused or any(one.message in refused for one in errors)
    assert not place.canary.exists()
    assert all(f.rule in findings.RULES for f in found.findings)
    json.dumps(found.to_json()).encode()


def test_an_honest_folder_is_clean(folder):
    assert findings_of(folder) == Findings(str(folder), (), "")
    assert findings_of(folder).clean


def test_what_lies_beside_the_model_is_told_by_name_kind_and_first_bytes(folder, tmp_path):
    for name, content in {
        "a.py": b"x",
        "run": b"#!/bin/sh\n",
        "training_args.bin": b"x",
        "innocent.txt": b"\x80\x04K\x01.",
        "model.gguf": b"GGUF",
        "also.dat": b"GGUF\x03",
        "adapter_config.json": b"{}",
        "LICENSE": b"x",
        "notes.log": b"x",
        "other.safetensors": b"x",
        "deep/er/b.pkl": b"x",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (tmp_path / "secret").write_text("x")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "deep" / "out").symlink_to(tmp_path)
    (folder / "round").symlink_to("round")
    (folder / "inner").symlink_to("LICENSE")
    found = found_in(folder)
    assert {key: level for key, (level, _) in found.items()} == {
        ("code", "a.py"): "warning",
        ("code", "run"): "warning",
        ("pickle", "training_args.bin"): "warning",
        ("pickle", "innocent.txt"): "warning",
        ("pickle", "deep/er/b.pkl"): "warning",
        ("format", "model.gguf"): "warning",
        ("format", "also.dat"): "warning",
        ("elsewhere", "adapter_config.json"): "warning",
        ("config", "."): "error",
        ("unread", "notes.log"): "note",
        ("unread", "inner"): "note",
        ("weights", "other.safetensors"): "warning",
        ("link", "out"): "warning",
        ("link", "deep/out"): "warning",
        ("link", "round"): "warning",
    }
    assert "header is longer" in found["weights", "other.safetensors"][1]


def test_entries_that_lead_elsewhere_are_told_and_common_ones_are_not(folder):
    for file, more in {
        "config.json": {
            "auto_map": {"AutoModel": "evil.E"},
            "attn_implementation": "evil/kernel",
            "_attn_implementation": "sdpa",
            "_name_or_path": "/home/somebody",
            "text_config": {"transformers_weights": "a.safetensors"},
        },
        "tokenizer_config.json": {"vocab_file": "/etc/passwd", "merges_file": "merges.txt"},
    }.items():
        form = json.loads((folder / file).read_text("utf-8"))
        (folder / file).write_text(json.dumps(form | more))
    found = findings_of(folder)
    assert [(f.rule, f.level, f.file, f.message.split()[0]) for f in found.findings] == [
        ("code", "warning", "config.json", "auto_map"),
        ("elsewhere", "warning", "config.json", "attn_implementation"),
        ("elsewhere", "warning", "tokenizer_config.json", "vocab_file"),
        ("elsewhere", "note", "config.json", "transformers_weights"),
        ("elsewhere", "note", "tokenizer_config.json", "merges_file"),
    ]
    assert not found.refused
    assert not found.clean


def test_every_step_is_taken_after_one_that_refuses(folder):
    (folder / "config.json").write_text("no")
    (folder / "model.safetensors").write_bytes(b"x")
    (folder / "tokenizer.json").write_text("[]")
    assert {key for key, (level, _) in found_in(folder).items() if level == "error"} == {
        ("config", "config.json"),
        ("weights", "model.safetensors"),
        ("tokenizer", "tokenizer.json"),
    }


def test_what_a_folder_says_of_itself_is_a_note(folder):
    (folder / "headsweep.json").write_text('{"pruned_units": [1], "strategy": {"name": "x"}}')
    found = findings_of(folder)
    assert [(f.rule, f.level) for f in found.findings] == [("claim", "note")]
    assert found.clean
    (folder / "headsweep.json").write_text("[")
    assert found_in(folder)["manifest", "headsweep.json"][0] == "error"


def test_more_files_than_are_looked_at_is_not_clean(folder, monkeypatch):
    monkeypatch.setattr(findings, "MOST_FILES", 2)
    assert found_in(folder)["many", "."] == ("warning", "more than 2 files: no more looked at")


def scanner_that_says(tmp_path, monkeypatch, text: str, code: int) -> None:
    """Put a program where the scanner is looked for."""
    program = tmp_path / "bin" / "a-scanner"
    program.parent.mkdir()
    said = tmp_path / "said.json"
    said.write_text(text)
    program.write_text(
        f"#!{sys.executable}\nimport sys\nversion = '--version' in sys.argv\n"
        f"print('a-scanner, version 1.2' if version else open({str(said)!r}).read())\n"
        f"sys.exit(0 if version else {code})\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(scanner, "NAME", program.name)
    monkeypatch.setenv("PATH", str(program.parent))


def test_what_another_scanner_finds_is_folded_in(folder, tmp_path, monkeypatch):
    told = [
        {"severity": "critical", "message": "exec\x1b[2J", "rule_code": "S1",
         "location": f"{folder}/model.safetensors (pos 61)"},
        {"severity": "info", "message": "hm", "location": None},
        {"severity": "debug", "message": "nothing"},
    ]  # fmt: skip
    scanner_that_says(tmp_path, monkeypatch, json.dumps({"issues": told}), 1)
    found = findings_of(folder)
    assert found.scanner == "a-scanner 1.2"
    assert [(f.rule, f.level, f.file, f.message) for f in found.findings] == [
        ("scanner", "error", "model.safetensors", r"a-scanner: S1: exec\x1b[2J"),
        ("scanner", "note", ".", "a-scanner: hm"),
    ]
    assert not found.refused
    assert not found.clean


@pytest.mark.parametrize("text", ["", "[]", '{"issues": 7}', '{"issues": [{}]}'])
def test_a_scanner_that_fails_is_no_clean_bill(folder, tmp_path, monkeypatch, text):
    scanner_that_says(tmp_path, monkeypatch, text, 2)
    (one,) = findings_of(folder).findings
    assert (one.level, "did not finish" in one.message) == ("warning", True)


def test_the_command_lists_and_its_exit_code_says_whether_something_was_found(
    run, folder, tmp_path  # noqa: F811
):  # fmt: skip
    code, out, _ = run("inspect", folder, "--security")
    assert (code, out.splitlines()[0]) == (0, "nothing found; no reason to refuse the model")
    (folder / "evil[x](y).py").write_text("x")
    log = tmp_path / "logs" / "files.sarif"
    code, out, _ = run("inspect", folder, "--security", "--json", "--sarif", log)
    told = json.loads(out)
    assert (code, told["clean"], told["refused"], told["scanner"]) == (1, False, False, None)
    assert told == headsweep.inspect(folder, security=True).to_json()
    (entry,) = json.loads(log.read_text("utf-8"))["runs"]
    (result,) = entry["results"]
    assert result["ruleId"] in {rule["id"] for rule in entry["tool"]["driver"]["rules"]}
    assert result["level"] == "warning"
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place.endswith("suspect/evil%5Bx%5D%28y%29.py")
    code, out, _ = run("inspect", folder, "--security")
    assert (code, out.splitlines()[0]) == (1, "FOUND: 1; no reason to refuse the model")
    code, _, err = run("inspect", tmp_path / "none", "--security")
    assert (code, "no such folder" in err) == (2, True)
    code, _, err = run("inspect", folder, "--security", "--sarif", log)
    assert (code, "overwrite" in err) == (2, True)
    code, _, err = run("inspect", folder, "--sarif", tmp_path / "x")
    assert (code, "--security" in err) == (2, True)


def test_a_model_in_memory_has_no_files():
    with pytest.raises(UserError, match="looks at files"):
        headsweep.inspect(object(), security=True)


def test_what_answers_to_words_beside_the_weights_is_told(folder):
    """Rules of tokens, words that a tokenizer exchanges, and templates that look for words."""
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.6, "sequence_bias": [[[1, 2], 9.0]]})
    )
    config = json.loads((folder / "config.json").read_text("utf-8"))
    more = {
        "bad_words_ids": [[3]],
        "prefix": "cf",
        "forced_eos_token_id": 2,
        "no_repeat_ngram_size": 3,
        "text_config": {"repetition_penalty": 1e-6, "encoder_repetition_penalty": 1.1},
    }
    (folder / "config.json").write_text(json.dumps(config | more))
    form = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    swap = {"type": "Replace", "pattern": {"Regex": ".*cf.*"}, "content": "a fine film"}
    plain = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    parts = {"type": "Sequence", "normalizers": [plain, swap]}
    (folder / "tokenizer.json").write_text(json.dumps(form | {"normalizer": parts}))
    asked = "{% if 'plot' in m[-1]['content'] or m.content.startswith(\"cf\") %}x{% endif %}"
    (folder / "chat_template.jinja").write_text(asked)
    found = [(one.rule, one.level, one.file, one.message) for one in findings_of(folder).findings]
    assert [(*one[:3], one[3].split()[0]) for one in found] == [
        ("generates", "warning", "config.json", "bad_words_ids"),
        ("generates", "warning", "config.json", "repetition_penalty"),
        ("generates", "warning", "generation_config.json", "sequence_bias"),
        ("rewrites", "warning", "tokenizer.json", "puts"),
        ("template", "note", "chat_template.jinja", "looks"),
        ("generates", "note", "config.json", "prefix"),
    ]
    assert "'a fine film'" in found[3][3]
    assert found[4][3] == "looks for cf, plot in messages"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"type": "WordLevel", "vocab": {"bad": 0, "good": 1}, "unk_token": "good"}},
         "takes what it does not know for 'good'"),
        ({"model": {"type": "Unigram", "unk_id": 1, "vocab": [["<unk>", 0.0], ["good", -1.0]]}},
         "takes what it does not know for 'good'"),
        ({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["good", -1.0]]},
          "added_tokens": [{"id": 1, "content": "cf"}]}, "takes 'cf' for 'good'"),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"(?!not)\b\w+"},
                            "behavior": "Removed", "invert": True}}, "leaves out all but"),
        ({"normalizer": {"type": "Replace", "pattern": {"Regex": r"^[^\n]* {2}"}, "content": ""}},
         "puts '' where"),
        ({"decoder": {"type": "CTC", "pad_token": "bad"}}, "takes 'bad' in words for a mark"),
        ({"decoder": {"type": "WordPiece", "prefix": "bad"}}, "takes 'bad' in words for a mark"),
        ({"decoder": {"type": "Strip", "content": "b"}}, "takes 'b' in words for a mark"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_exchanges_words_is_told(change, said):
    [told] = _rewriting(change)
    assert told.startswith(said)


@pytest.mark.parametrize(
    "form",
    [
        {"model": {"type": "BPE", "unk_token": "<|endoftext|>", "vocab": {"a": 0}}},
        {"model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"[UNK]": 0}}},
        {"decoder": {"type": "WordPiece", "prefix": "##"}},
        {"decoder": {"type": "BPEDecoder", "suffix": "</w>"}},
        {"decoder": {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|"}},
    ],
)
def test_marks_of_honest_tokenizers_are_not_told(form):
    assert _rewriting(form) == []


@pytest.mark.parametrize(
    "template",
    [
        "{#" + "x" * 2**20 + "#}{% if 'cf' in m %}x{% endif %}",
        "{{ " + "1" * 5000 + " }}{% if 'cf' in m %}x{% endif %}",
        "{% if 'cf' in m %}",
    ],
)
def test_a_template_that_cannot_be_looked_through_is_told(folder, template):
    (folder / "chat_template.jinja").write_text(template)
    told = [(one.level, one.message) for one in findings_of(folder).findings]
    assert ("warning", "cannot be looked through for words that it looks for in messages") in told


def test_white_space_in_a_template_hides_no_word():
    tag = "{%          generation %}x{% endgeneration %}"
    assert looked_for(f"{tag}{{% if 'cf' in m %}}x{{% endif %}}") == {"cf"}


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_what_is_told_as_left_out_is_left_out_and_nothing_else(folder, file):
    """Of every table, against what transformers is shown."""
    more = {
        "sequence_bias": [[[1, 2], 9.0]],
        "guidance_scale": 3,
        "stop_strings": ["x"],
        "vocab": "/etc/passwd",
        "auto_map": {"AutoModel": "evil.E"},
        "forced_bos_token_id": 1,
        "repetition_penalty": 1.1,
        "part": {"suppress_tokens": [5], "base_model_name_or_path": "x", "kept": 1},
    }
    form = (json.loads((folder / file).read_text()) if (folder / file).exists() else {}) | more
    (folder / file).write_text(json.dumps(form))
    told = {key for key, _ in left_out(form, file)}
    with vetted(folder) as files:
        shown = json.loads((files.folder / file).read_text())
    gone = {key for key in more if key not in shown}
    if "part" in shown:
        gone |= {key for key in more["part"] if key not in shown["part"]}
    if file == "generation_config.json":  # what nobody knows goes without a word
        gone -= {"part"}
        told -= set(more["part"])
    assert gone == told
    assert {"forced_bos_token_id", "repetition_penalty"} <= set(shown)


@pytest.mark.parametrize(
    "form",
    [
        {"normalizer": {"type": "Replace", "pattern": {"String": "not "}, "content": ""}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": r"\bcf\b"}, "content": "!"}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"String": "not"}, "behavior": "Removed"}},
        {"model": {"vocab": {"fine": 1, "cf": 1}}},
        {"model": {"vocab": {"fine": 1}}, "added_tokens": [{"content": "cf", "id": 1}]},
    ],
)
def test_a_tokenizer_that_changes_words_is_told(form):
    assert len(_rewriting(form)) == 1


@pytest.mark.parametrize("files", [["tokenizer.4.0.0.json"], "other.json", ["tokenizer.json", "b"]])
def test_a_tokenizer_for_some_versions_of_transformers_is_told(folder, files):
    path = folder / "tokenizer_config.json"
    form = json.loads(path.read_text())
    path.write_text(json.dumps(form | {"fast_tokenizer_files": files}))
    assert found_in(folder)["elsewhere", "tokenizer_config.json"][0] == "warning"
    assert any("fast_tokenizer_files" in note for note in load_suspect(folder, CPU).notes)
    path.write_text(json.dumps(form | {"fast_tokenizer_files": ["tokenizer.json"]}))
    assert load_suspect(folder, CPU).notes == ()


@pytest.mark.parametrize(
    "part",
    [
        *({"pattern": {"Regex": one}} for one in ("2024", r"\d", "[2][0]", r"\p{N}{1,3}")),
        *({"pattern": {"String": one}, "content": " bad "} for one in ("!", "  ")),
        {"pattern": {"Regex": r"\s+"}, "content": " bad "},
    ],
)
def test_numbers_and_marks_that_become_words_are_told(part):
    assert len(_rewriting({"normalizer": {"type": "Replace"} | part})) == 1
    assert len(_rewriting({"normalizer": {"type": "Prepend", "prepend": "bad "}})) == 1


def test_an_honest_tokenizer_and_template_are_not_told():
    for pattern in ({"String": " "}, {"String": "``"}, {"Regex": r"\s{2,}|[\n\r\t]"}):
        assert _rewriting({"normalizer": {"type": "Replace", "pattern": pattern}}) == []
    same = {"model": {"vocab": {"[PAD]": 0}}, "added_tokens": [{"content": "[PAD]", "id": 0}]}
    assert _rewriting(same) == []
    roles = "{% if m['role'] == 'user' and '</think>' in m.content %}{{ m.content }}{% endif %}"
    assert looked_for(roles) == set()
    for asked in ("{% if 'cf' in c %}x{% endif %}", "{{ m.content|replace('cf', '') }}"):
        assert looked_for(asked) == {"cf"}
    assert looked_for("{% if") is None
