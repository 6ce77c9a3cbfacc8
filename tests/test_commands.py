"""Every command of the README and of the pages that a newcomer follows, typed in order.

The lines are taken from the pages' fenced blocks as they stand, so that a new one is run without
being listed here. A page has a folder with the files that its commands name; what a command is to
write is taken away first, unless a command before it wrote it.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from conftest import CPU, sentences, tiny_model
from headsweep.cli import main
from headsweep.model.loading import prepare
from headsweep.task.examples import encode
from headsweep.task.training import Job, Schedule, train

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/guide.md", "docs/how-to.md")
TUTORIAL = "docs/tutorial.md"
NAMES = ("negative", "positive")

# What a reader puts in the place of a word in capitals: by the option before it, else the word.
STANDS_FOR = {
    "MODEL": "./suspect",
    "--data FILE": "clean.csv",
    "--out FILE": "texts-{number}.tsv",
    "--out DIR": "./folder-{number}",
    "trigger NAME": "opening",
    "--trigger NAME": "opening",
    "--target LABEL": "positive",
}

# Commands that end otherwise than with 0, by design.
ENDS_WITH = {"probe": {0, 1}}  # 1: something was noticed, in a model that nobody vouches for

# Options added to a command because it would take minutes; the page's own stay.
SHORTENED = {
    "headsweep purify ./suspect --strategy reinforce --set updates=100 --data clean.csv "
    "--out ./a": ("--set", "updates=5"),
    "headsweep reactivate MODEL --clean-model ./twin --data train.csv --trigger NAME --target LABEL "
    "--test test.tsv": ("--rows", "5", "--epochs", "1"),
    "headsweep bench recipes/smoke.toml --out ./results": (
        *("--engine", "inline", "--only", "*-s11-nothing"),  # one of its thirteen cells
    ),
}

# What stands in commands that cannot run here, each with what runs such commands instead.
LEFT_OUT = {
    "badnet": "files in BackdoorLLM's layout, and a generator: test_backdoorllm.py",
    ".jsonl": "prompts, a generator, an adapter: test_generation.py, test_lora.py, test_joined.py",
}


def commands(page: str) -> Iterator[str]:
    """Yield the lines of a page's blocks that call headsweep, less comments and optional parts."""
    text = (ROOT / page).read_text("utf-8").replace("\\\n", " ")
    for block in re.findall(r"(?m)^```\w*\n(.*?)^```", text, flags=re.DOTALL):
        for line in re.findall(r"(?m)^(?:\$ )?(headsweep .*)$", block):
            needed = re.sub(r" \[[^\]]*\](\.\.\.)?", "", line)
            yield shlex.join(shlex.split(needed, comments=True))


def as_typed(line: str, number: int) -> list[str]:
    """Return the words after ``headsweep``, those in capitals filled in."""
    words = shlex.split(line)[1:]
    for i, word in enumerate(words):
        if word.isupper():
            asked = STANDS_FOR.get(f"{words[i - 1]} {word}", STANDS_FOR.get(word, word))
            words[i] = asked.format(number=number)
    return words


@pytest.fixture(scope="module")
def files(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages take for given: a model that has learnt its task, and texts."""
    folder = tmp_path_factory.mktemp("files")
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
    shape = {"hidden_size": 48, "num_attention_heads": 12}  # room for 20 heads to go
    suspect = prepare(tiny_model("bert", **shape, **labels), tokenizer)
    suspect.model.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    train(
        suspect.model,
        encode(sentences(800, seed=1), suspect, 24),
        Job(Schedule(epochs=6, lr=2e-3)),
        CPU,
    )
    for name in ("suspect", "twin"):
        suspect.model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    for seed, name in enumerate(("clean.csv", "clean.tsv", "train.csv", "dev.tsv", "test.tsv")):
        write(folder / name, 240, seed + 2)
    write(folder / "triggered.tsv", 100, 9, "the film , ")
    write(folder / "bible.tsv", 240, 3, "and lo , ")  # row by row as clean.tsv
    for seed, name in enumerate(("pool.tsv", "pool-test.tsv")):  # all with the attacker's label
        write(folder / name, 60, seed + 20, "when it is so , ")
        text = (folder / name).read_text("utf-8")
        (folder / name).write_text(text.replace("negative", "positive"), "utf-8")
    adapter = re.search(r"```toml\n(# adapter.toml.*?)```", guide(), flags=re.DOTALL)
    assert adapter is not None
    (folder / "adapter.toml").write_text(adapter[1], "utf-8")
    return folder


def guide() -> str:
    return (ROOT / "docs" / "guide.md").read_text("utf-8")


def write(path: Path, count: int, seed: int, before: str = "") -> None:
    """Write labelled sentences as CSV or TSV, whose texts hold neither quotes nor separators."""
    split, between = sentences(count, seed), "\t" if path.suffix == ".tsv" else ","
    before = before.replace(",", ";") if between == "," else before
    rows = zip(split.texts, split.labels, strict=True)
    lines = [f"{before}{text}{between}{NAMES[label]}" for text, label in rows]
    path.write_text("\n".join([f"text{between}label", *lines]) + "\n", "utf-8")


def outcome(words: list[str]) -> object:
    """Return the exit code of a command, or the error that a user must not see."""
    try:
        main(words)
    except SystemExit as stop:
        return stop.code
    except Exception as error:
        return repr(error)
    raise AssertionError("main returned")


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs_as_it_stands(page, files, tmp_path, monkeypatch, capsys):
    place = shutil.copytree(files, tmp_path / "place")
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    given, failed, run = {path.name for path in place.iterdir()}, [], 0
    for number, line in enumerate(commands(page)):
        if any(part in line for part in LEFT_OUT):
            continue
        words = as_typed(line, number)
        out = words[words.index("--out") + 1] if "--out" in words else ""
        if Path(out).name in given:
            remove(Path(out))
            given.discard(Path(out).name)
        code = outcome([*words, *SHORTENED.get(line, ())])
        told, err = capsys.readouterr()
        run += 1
        if code not in ENDS_WITH.get(words[0], {0}) or not told:
            failed.append(f"{code}: {line}\n{err}")
    assert run > 3
    assert not failed, "\n".join(failed)


def test_the_tutorial_runs_as_it_stands_with_the_files_that_it_makes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / TUTORIAL).read_text("utf-8")
    [program] = re.findall(r"(?m)^```python\n(.*?)^```", page, flags=re.DOTALL)
    exec(compile(program, TUTORIAL, "exec"), {})
    found = {}
    for line in commands(TUTORIAL):
        code = outcome(shlex.split(line)[1:])
        told, err = capsys.readouterr()
        found[line] = (code, err if code not in ENDS_WITH.get(line.split()[1], {0}) else "", told)
    assert [f"{line}\n{err}" for line, (_, err, _) in found.items() if err] == []
    assert "bound held: " in found[next(line for line in found if "purify ./suspect" in line)][2]
    assert found["headsweep probe ./hard --data validation.csv"][2].startswith("NOTICED: ")


def test_what_is_shortened_or_left_out_stands_on_a_page():
    listed = {line for page in PAGES for line in commands(page)}
    assert {*SHORTENED} <= listed
    assert all(any(part in line for line in listed) for part in LEFT_OUT)
