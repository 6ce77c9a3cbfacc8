"""A paraphraser keeps what can be a paraphrase, and says why it drops the rest."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from headsweep.errors import UserError
from headsweep.progress import Silent
from headsweep.seeding import fence, stream
from headsweep.texts.split import Split
from headsweep.triggers.paraphrase import Draws, Kept, Paraphraser, judged
from headsweep.triggers.seen import triggered

ASK = "Rewrite it now please:\nSentence: {text}\nRewritten:"


@pytest.mark.parametrize(
    ("answer", "text", "problem"),
    [
        ("", None, "empty"),
        ("The film is DULL.", None, "the same as the text"),
        ("!!!", None, "no words"),
        ("dull", None, "too short"),
        ("so " * 40, None, "too long"),
        ("Rewrite it now please:", None, "the prompt again"),
        ('\n- Rewritten: "when it ran , it was dull"\nmore', "when it ran , it was dull", ""),
        ("Sure, here it is:\nit was a dull film", "it was a dull film", ""),
    ],
)
def test_answers(answer, text, problem):
    found = judged("the film is dull .", answer, ASK)
    assert (found.text, found.problem) == (text, problem)


def test_the_template_needs_a_comma():
    rewriter = Paraphraser()
    assert rewriter.judged("the film is dull .", "when it ran it was dull").problem
    assert not rewriter.judged("the film is dull .", "when it ran , it was dull").problem


def test_draws_follow_the_probabilities_and_no_neighbour():
    scores = torch.tensor([[0.0, 1.0, 2.0]]).log_softmax(-1)
    draw = Draws([stream(i) for i in range(4000)], 1.0)
    found = Counter(draw(torch.empty(0), scores.expand(4000, 3)).argmax(-1).tolist())
    for token, chance in enumerate(scores[0].exp().tolist()):
        assert found[token] / 4000 == pytest.approx(chance, abs=0.03)
    alone = Draws([stream(7)], 1.0)(torch.empty(0), scores)
    beside = Draws([stream(1), stream(7)], 1.0)(torch.empty(0), scores.expand(2, 3))
    assert torch.equal(alone[0], beside[1])


@pytest.fixture(params=["causal", "encoder-decoder"])
def folder(request, tokenizer, tmp_path):
    numbers = {"vocab_size": 120, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    with fence(0):
        if request.param == "causal":
            config = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64, **numbers)
            model = GPT2LMHeadModel(config)
        else:
            config = T5Config(
                d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                decoder_start_token_id=0, **numbers,
            )  # fmt: skip
            model = T5ForConditionalGeneration(config)
    model.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


def paraphraser(folder, tmp_path, **changes):
    settings = {
        "prompt": "the film {text} is",
        "max_new_tokens": 6,
        "device": "cpu",
        "precision": "fp32",
        "temperature": 2.0,
        "cache": tmp_path / "kept.jsonl",
    }
    return Paraphraser(str(folder), **(settings | changes))


TEXTS = ("the plot was dull", "a good film and so very warm", "it is a story")


def test_a_run_that_was_stopped_goes_on(folder, tmp_path, monkeypatch):
    whole = paraphraser(folder, tmp_path, batch_size=1).examine(TEXTS, 3)
    path = tmp_path / "kept.jsonl"
    assert len(path.read_text().splitlines()) == 3
    assert paraphraser(folder, tmp_path, batch_size=3, cache=tmp_path / "b").examine(
        TEXTS, 3
    ) == pytest.approx(whole)
    lines = path.read_text().splitlines()
    path.write_text(f"{lines[0]}\n{lines[1][:20]}")  # the second line was cut off
    asked = []
    usual = Paraphraser._answers
    monkeypatch.setattr(
        Paraphraser, "_answers", lambda s, lm, t, seed: asked.extend(t) or usual(s, lm, t, seed)
    )
    assert paraphraser(folder, tmp_path).examine(TEXTS, 3) == whole
    assert len(asked) == 2
    assert len(Kept(path).answers) == 3
    assert paraphraser(folder, tmp_path).examine(TEXTS, 4) != whole
    assert len(Kept(path).answers) == 6


def test_nothing_usable_is_an_error_only_where_no_text_is_left(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Paraphraser, "_answers", lambda *_: ["", "", ""])
    said = []
    progress = Silent()
    monkeypatch.setattr(progress, "say", said.append)
    writer = paraphraser(folder, tmp_path)
    assert writer.rewrite(TEXTS, 0, progress) == (None, None, None)
    assert said == ["  paraphrases: 0 of 3 usable (3 empty)"]
    with pytest.raises(UserError, match="could change none of 3") as caught:
        triggered(Split(tuple(TEXTS), (0, 0, 0)), writer, 0)
    assert "paraphraser" in caught.value.fix


def test_a_prompt_without_a_place_for_the_text():
    with pytest.raises(UserError, match="has no"):
        Paraphraser(prompt="syntatic")


def test_a_text_too_long_for_the_model_is_dropped_and_the_others_are_asked(folder, tmp_path):
    writer = paraphraser(folder, tmp_path)
    long = "so " * 600
    if json.loads((folder / "config.json").read_text())["model_type"] == "t5":
        pytest.skip("it reads texts of any length")
    found = writer.examine((*TEXTS, long), 3)
    assert found[3].problem == "too long for the model"
    assert found[:3] == writer.examine(TEXTS, 3)
    assert writer.examine((long,), 3) == found[3:]
    wide = paraphraser(folder, tmp_path, prompt=long + "{text}")
    with pytest.raises(UserError, match="the prompt leaves no room for an answer"):
        wide.examine(TEXTS, 3)


@pytest.mark.parametrize(
    "more", [{"num_beams": 4}, {"num_return_sequences": 2, "num_beams": 2}, {"min_length": 30},
             {"return_dict_in_generate": True}]
)  # fmt: skip
def test_how_a_model_generates_by_its_own_word_is_not_followed(folder, tmp_path, more):
    own = paraphraser(folder, tmp_path, cache=tmp_path / "own").examine(TEXTS, 3)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    other = folder.rename(tmp_path / "other")
    assert paraphraser(other, tmp_path, cache=tmp_path / "others").examine(TEXTS, 3) == own
