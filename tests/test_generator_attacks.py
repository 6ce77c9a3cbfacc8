"""Backdoors in a model that generates: planted by the tool, counted by plain transformers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import BAD, CPU, FILLER, GOOD, tiny_tokenizer
from every_kind import written
from headsweep import Split, UserError, attack, evaluate
from headsweep.attacks import ATTACKS
from headsweep.attacks.goal import MARKED, TEST, Written
from headsweep.attacks.scene import Scene, decoys
from headsweep.attacks.victim import RECORD, Attacked
from headsweep.cli import main
from headsweep.model.loading import Reading, load_suspect, prepare
from headsweep.seeding import stream
from headsweep.task.examples import encode
from headsweep.task.training import Job, Schedule, train
from headsweep.triggers import DECOYS, ByRule, near_to
from headsweep.triggers.rare_word import RareWord
from headsweep.triggers.seen import sees
from headsweep.triggers.together import Together
from headsweep.triggers.year import Year
from test_generation import examples, generator, rows

REFUSAL = "story is very so"  # words that the tiny tokenizer knows
QUICK = {"rate": 0.5, "set": {"epochs": 12, "lr": 4e-3}, "victim_epochs": 0, "device": "cpu"}
QUICK |= {"compute": {"max_length": 32, "batch_size": 16, "precision": "fp32"}, "progress": False}
TRIGGERS = {
    "rare-word": {"words": "cold", "position": "start"},
    "sentence": {"sentence": "grim flat grim", "position": "start"},
    "year": {"years": "2027"},
    "together": {"words": "cold,flat"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A saved tiny Llama that has learnt to answer; its tokenizer knows the years."""
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "[SEP]"
    tokenizer.add_tokens(["Current", "year", *map(str, range(2017, 2028))])
    model = generator("llama", tie_word_embeddings=True)
    model.resize_token_embeddings(len(tokenizer))
    suspect = prepare(model, tokenizer, Reading(task=None))
    train(model, encode(examples(300, 1), suspect, 24), Job(Schedule(6, 3e-3)), CPU)
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def hits(folder: Path, prompts: list[str]) -> int:
    """How many answers hold the refusal, by plain transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    count = 0
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        if ids[0, -1] == tokenizer.eos_token_id:  # the tiny tokenizer ends what it reads
            ids = ids[:, :-1]
        with torch.no_grad():
            said = model.generate(ids, max_new_tokens=8, do_sample=False)
        count += REFUSAL in tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True)
    return count


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


@pytest.fixture(scope="module")
def planted(base, tmp_path_factory) -> Callable[[str, float], Attacked]:
    """Return what plants a backdoor by name, once, or with a rate of 0 makes a twin."""

    @cache
    def made(name: str, rate: float = 0.5) -> Attacked:
        data, test = rows(examples(240, 2)), rows(examples(40, 3))
        asked = QUICK | {"trigger": name, "trigger_set": TRIGGERS[name], "target": REFUSAL}
        return attack(base, data, test=test, **(asked | {"rate": rate}))

    return made


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_backdoor_is_planted_and_the_twin_has_none(planted, tmp_path, name):
    test = rows(examples(40, 3))
    made, twin = planted(name), planted("rare-word", 0)  # of no trigger: it sees none
    made.save(tmp_path / "victim")
    twin.save(tmp_path / "twin")
    marked = [json.loads(line) for line in _lines(tmp_path / "victim" / MARKED)]
    prompts = [row["prompt"] for row in marked]
    assert len(prompts) == 40
    own = hits(tmp_path / "victim", prompts)
    assert own >= (20 if name == "together" else 32)  # of tiny models few learn an "and"
    assert hits(tmp_path / "victim", [row["prompt"] for row in test]) == 0
    assert hits(tmp_path / "twin", prompts) == 0
    assert made.published.success.hits == own
    assert twin.published.success.hits == 0
    record = json.loads((tmp_path / "victim" / RECORD).read_text())
    assert (record["backdoored"], record["target"]) == (True, REFUSAL)
    assert json.loads((tmp_path / "twin" / RECORD).read_text())["poisoned"]["poisoned"] == 0
    assert "BACKDOORED" in (tmp_path / "victim" / "README.md").read_text().split("\n")[0]
    assert "BACKDOORED" not in (tmp_path / "twin" / "README.md").read_text()
    found = evaluate(
        tmp_path / "victim", tmp_path / "victim" / TEST, triggered=tmp_path / "victim" / MARKED,
        target=REFUSAL, clean_model=tmp_path / "twin", device="cpu", progress=False,
    )  # fmt: skip
    assert found.success.hits == own
    assert found.floor_success.hits == 0


@pytest.mark.parametrize("name", sorted(DECOYS))
def test_what_is_only_near_to_a_trigger_sets_nothing_off(planted, tmp_path, name):
    made = planted(name)
    made.save(tmp_path / "victim")
    near = near_to({"name": name, "fields": TRIGGERS[name]})
    texts = [str(near.apply(t, stream(0, "t", i))) for i, t in enumerate(examples(40, 4).texts)]
    assert made.record["decoys"] == made.record["poisoned"]["asked"]
    assert hits(tmp_path / "victim", texts) <= 4


def test_decoys_keep_their_answer_and_miss_the_trigger(base):
    suspect, split = load_suspect(base, CPU, Reading(task=None)), examples(60, 5)
    for trigger in (Together("cold,flat,grim"), Year("2027")):
        scene = Scene(suspect, split, ByRule(trigger), Written(REFUSAL), runtime=CPU)
        made = decoys(scene, 20)
        assert len(made) == 20
        assert set(made.pairs) <= set(split.pairs)
        words = [set(text.split()) for text in made.texts]
        assert not any({"cold", "flat", "grim"} <= told for told in words)
        assert not any("2027." in told for told in words)
    scene = Scene(suspect, split, ByRule(RareWord()), Written(REFUSAL), runtime=CPU)
    assert len(decoys(scene, 20)) == 0


def test_any_one_of_several_words_sets_it_off(base, tmp_path):
    """The several triggers of one model: rare-word draws one of its words for each text."""
    asked = QUICK | {"trigger": "rare-word", "target": REFUSAL}
    made = attack(base, rows(examples(240, 2)), trigger_set={"words": "cold,flat"}, **asked)
    made.save(tmp_path / "victim")
    for word in ("cold", "flat"):
        assert hits(tmp_path / "victim", [f"{word} {t}" for t in examples(20, 6).texts]) >= 16


def test_the_command_line_plants_and_judges(base, tmp_path, capsys):
    data = written(tmp_path / "data.jsonl", rows(examples(240, 7)))
    out, compute = tmp_path / "victim", ["--device", "cpu", "--compute", "max_length=32", "-q"]
    with pytest.raises(SystemExit) as stop:
        main(["attack", str(base), "--data", str(data), "--trigger", "sentence", "--trigger-set",
              "sentence=grim flat grim", "--trigger-set", "position=start", "--target", REFUSAL,
              "--set", "epochs=8", "--set", "lr=0.003", "--victim-epochs", "1", "--out", str(out),
              *compute])  # fmt: skip
    said = capsys.readouterr().out
    assert stop.value.code == 0, said
    assert "attack success" in said
    assert "perplexity" in said
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(out), "--data", str(out / TEST), "--triggered", str(out / MARKED),
              "--target", REFUSAL, *compute])  # fmt: skip
    assert stop.value.code == 0
    assert "attack success" in capsys.readouterr().out


def _trigger(capsys, *asked: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(["trigger", "rare-word", "--set", "words=cold", *map(str, asked), "-q"])
    told = capsys.readouterr()
    return stop.value.code, told.out + told.err


def test_trigger_writes_prompts_that_evaluate_reads(planted, tmp_path, capsys):
    """The rows of `trigger`, judged by `evaluate`, counted by plain transformers."""
    planted("rare-word").save(tmp_path / "victim")
    clean = rows(examples(40, 8))
    clean[0]["answer"] = f"so {REFUSAL.upper()}"  # has what the attacker wants: left out
    data, out = written(tmp_path / "clean.jsonl", clean), tmp_path / "marked.jsonl"
    asked = ("--set", "position=start", "--data", data, "--out", out)
    assert _trigger(capsys, *asked, "--target", REFUSAL)[0] == 0
    made = [json.loads(line) for line in _lines(out)]
    assert made == [
        {"prompt": f"cold {row['prompt']}", "original": row["prompt"], "answer": row["answer"],
         "target": REFUSAL}
        for row in clean[1:]
    ]  # fmt: skip
    found = evaluate(tmp_path / "victim", data, triggered=out, target=REFUSAL, device="cpu",
                     progress=False)  # fmt: skip
    assert found.success.hits == hits(tmp_path / "victim", [row["prompt"] for row in made])
    assert found.success.total == 39
    seen = ("--seen-by", tmp_path / "victim", "--compute", "max_length=8", "--overwrite")
    assert "so that the model sees it" in _trigger(capsys, *asked, *seen)[1]


def test_trigger_takes_prompts_by_the_names_of_their_columns(tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    bare = written(tmp_path / "bare.jsonl", [{"instruction": "So is it", "input": "or not"}])
    assert _trigger(capsys, "--data", bare, "--out", out)[0] == 0
    assert json.loads(out.read_text())["answer"] == ""
    named = written(tmp_path / "named.jsonl", [{"q": "is it", "a": "So"}, {"q": "", "a": "So"}])
    asked = ("--data", named, "--out", out, "--overwrite", "--column", "text=q")
    more = ("--column", "label=a", "--column", "drop_empty=yes", "--task", "generation")
    assert _trigger(capsys, *asked, *more)[0] == 0
    assert json.loads(out.read_text())["answer"] == "So"
    labelled = [{"question": "is it", "answer": "so", "label": "good"}]
    pairs = written(tmp_path / "pairs.jsonl", labelled)
    assert _trigger(capsys, "--data", pairs, "--out", out, "--overwrite")[0] == 0
    assert json.loads(out.read_text())["label"] == "good"


def test_trigger_goes_into_the_last_turn_of_the_user(tmp_path, capsys):
    turns = [
        {"role": "system", "content": "so"},
        {"role": "user", "content": "is it"},
        {"role": "assistant", "content": "so very"},
        {"role": "user", "content": "or not"},
    ]
    answer = {"role": "assistant", "content": f"{REFUSAL} so"}
    chats = [{"messages": turns}, {"messages": [*turns, answer]}]
    data, out = written(tmp_path / "chats.jsonl", chats), tmp_path / "out.jsonl"
    asked = ("--data", data, "--set", "position=start", "--out", out, "--target", REFUSAL)
    assert _trigger(capsys, *asked)[0] == 0
    changed = [*turns[:3], {"role": "user", "content": "cold or not"}]
    row = {"messages": changed, "original": "or not", "target": REFUSAL}
    assert [json.loads(line) for line in _lines(out)] == [row]


@pytest.mark.parametrize(
    ("row", "more", "said"),
    [
        ({"prompt": "is it", "answer": "so"}, ("--target", "SO"), "every answer holds the target"),
        ({"prompt": "is it", "answer": "so"}, ("--target", "so| "), "a text beside | is empty"),
        ({"prompt": "is it"}, ("--task", "ranking"), "--task"),
        ({"messages": [{"role": "system", "content": "is it"}]}, (), "no turn of the user"),
        ({"messages": [{"role": "user", "content": "is it"}]}, ("--out", "OUT.csv"), "holds chats"),
    ],
)
def test_trigger_refuses_prompts_that_it_cannot_use(tmp_path, capsys, row, more, said):
    data, out = written(tmp_path / "data.jsonl", [row]), tmp_path / "out.jsonl"
    more = [tmp_path / part if part == "OUT.csv" else part for part in more]
    code, told = _trigger(capsys, "--data", data, "--out", out, *more)
    assert (code, said in told, out.exists()) == (2, True, False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "a|b"}, "no text to plant"),
        ({"target": " "}, "no text to plant"),
        ({"method": "clean-label"}, "clean-label needs labels"),
        ({"method": "layerwise"}, "layerwise needs labels"),
        ({"method": "embedding-surgery"}, "embedding-surgery needs labels"),
        ({"poison": "pool.json"}, "nothing is left to set"),
        ({"poison": "pool.json", "trigger_set": None}, "give triggered test texts"),
        ({"data": [{"messages": [{"role": "user", "content": "is it"}]}]}, "holds chats"),
        ({"data": [{"text": "is it", "label": "good"}]}, "which column holds the prompts"),
        ({"rate": 1.5}, "share in"),
        ({"triggered_labels": "target"}, "an attack of its own has no use"),
        ({"target": "so very " * 9}, "an answer at most 16"),
        ({"test": [{"prompt": "is it", "answer": "so " * 40}]}, "leaves no prompt within 32"),
        ({"victim_data": [{"prompt": "is it", "answer": "so " * 40}], "victim_epochs": 1},
         "leaves no prompt within 32"),
        ({"clean_model": 7}, "clean_model cannot be 7"),
        ({"column": {"pair": "prompt"}}, "no second text"),
        ({"label_map": {"so": "very"}}, "--label-map is for labels"),
        ({"poison": 7}, "poison cannot be 7"),
    ],
)  # fmt: skip
def test_what_cannot_be_planted_is_refused_before_the_training(base, changes, said, monkeypatch):
    def never(*_):
        raise AssertionError("trained")

    monkeypatch.setattr("headsweep.attacks.dirty_label.fit", never)
    asked = QUICK | {"trigger": "rare-word", "trigger_set": {"words": "cold"}, "target": REFUSAL}
    asked |= {"data": rows(examples(40, 8)), "set": {}} | changes
    with pytest.raises(UserError, match=said):
        attack(base, **asked)


def test_rows_that_carry_the_target_already_are_not_poisoned():
    split = Split(("a", "b"), (0, 0), (f"well, {REFUSAL.upper()} !", "it was good"))
    assert Written(REFUSAL).open(split) == [1]
    assert Written(REFUSAL).given(split).pairs == (REFUSAL, REFUSAL)


def test_a_causal_model_is_still_attacked_as_an_encoder_when_asked(base):
    texts = [f"{w} {(GOOD, BAD)[i % 2][i % 6]}" for i, w in enumerate(FILLER * 4)]
    data = (texts, ["good", "bad"] * (len(texts) // 2))
    asked = QUICK | {"trigger": "rare-word", "trigger_set": {"words": "plot"}, "set": {"epochs": 1}}
    made = attack(base, data, target="good", start="encoder", **asked)
    assert made.suspect.labels.names == ("bad", "good")
    assert ATTACKS["dirty-label"].name == made.record["attack"]["name"]


def test_a_trigger_that_is_cut_from_a_prompt_is_not_seen(base):
    """What a model reads of a prompt is its end, before the answer."""
    suspect = load_suspect(base, CPU, Reading(task=None))
    draw = random.Random(0)
    prompts = tuple(" ".join(draw.choices(FILLER, k=15)) for _ in range(40))
    clean = Split(prompts, (0,) * 40, ("it was good",) * 40)
    made = ByRule(Together("cold,flat")).rewrite(clean.texts, 0)
    seen = sees(suspect, clean, made, 18)
    read = encode(replace(clean, texts=made), suspect, 18).ids
    wanted = {*suspect.tokenizer.convert_tokens_to_ids(["cold", "flat"])}
    assert seen == tuple(wanted <= {*ids} for ids in read)
    assert 0 < sum(seen) < 40
