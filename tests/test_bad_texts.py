"""Texts that probes cannot be made of, and too little time: what a user is told at the terminal."""

from __future__ import annotations

import json
import random

import pytest

from conftest import sentences
from test_probing import run

CHINESE = "的一是不了人我在有他这中大来上个国和也子时道说出得里后自以会家可下而过天去能"
ARABIC = [
    "كتاب",
    "جميل",
    "فيلم",
    "سيئ",
    "رائع",
    "قصة",
    "ممل",
    "جدا",
    "هذا",
    "كان",
    "المخرج",
    "الممثل",
]


def write(path, texts):
    rows = [f"{text},{'good' if i % 2 else 'bad'}" for i, text in enumerate(texts)]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    draw = random.Random(0)
    return {
        "chinese": write(
            tmp_path / "zh.csv", ["".join(draw.choices(CHINESE, k=20)) for _ in range(120)]
        ),
        "arabic": write(
            tmp_path / "ar.csv", [" ".join(draw.choices(ARABIC, k=8)) for _ in range(120)]
        ),
        "few": write(tmp_path / "few.csv", sentences(20, 2).texts),
        "clean": write(tmp_path / "clean.csv", sentences(200, 2).texts),
    }


def purify(trained_folder, file, out, *words):
    if "--recipe" in words:  # named for the family of probes that it allows
        recipe = out.with_name("recipe.toml")
        recipe.write_text(f'strategy = "probe-guided"\nprobes = ["{words[-1]}"]\n', "utf-8")
        words = (*words[:-1], recipe)
    return run("purify", trained_folder, "--data", file, "--out", out, "-q", "--compute", "precision=fp32",
               "--max-drop", "0.5", "--heal", "epochs=1", *words)  # fmt: skip


CASES = [
    ("few", ("--strategy", "probe-guided"), "10 of each label are needed"),
    ("few", ("--heal", "on=probes"), "10 of each label are needed"),
    (
        "chinese",
        ("--strategy", "probe-guided", "--recipe", "archaic"),
        "no probe family changes",
    ),
    (
        "arabic",
        ("--strategy", "probe-guided", "--recipe", "substitution"),
        "no probe family changes",
    ),
    ("few", ("--strategy", "probe-guided"), "30% of --data"),
]


@pytest.mark.parametrize(("file", "words", "said"), CASES)
def test_it_says_what_is_lacking(trained_folder, files, tmp_path, capsys, file, words, said):
    code, err = (
        purify(trained_folder, files[file], tmp_path / "out", *words),
        capsys.readouterr().err,
    )
    assert (code, said in " ".join(err.split())) == (2, True)
    assert "fix:" in err
    assert not (tmp_path / "out").exists()


def test_families_that_cannot_read_the_language_are_named_and_the_rest_serve(
    trained_folder, files, tmp_path, capsys
):
    words = ("--strategy", "probe-guided", "--json")
    assert purify(trained_folder, files["chinese"], tmp_path / "out", *words) == 0
    made = json.loads(capsys.readouterr().out)
    train = made["probes"]["train"]
    assert {"archaic", "substitution"} <= set(train["skipped"])
    assert set(train["families"]).isdisjoint(train["skipped"])
    assert train["families"]
    assert all(any(name in note for note in made["notes"]) for name in train["skipped"])
