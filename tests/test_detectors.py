"""Detectors against what is known without them."""

from __future__ import annotations

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from conftest import BAD, CPU, GOOD, sentences
from headsweep.cli import main
from headsweep.errors import UserError
from headsweep.judge.detection import Trial, measure, threshold
from headsweep.judge.detectors import DETECTORS, Watch
from headsweep.judge.detectors.onion import OnionScorer
from headsweep.judge.detectors.rap import Rap, _marked, _row, standing_in
from headsweep.judge.detectors.strip import Strip, telling_words
from headsweep.judge.statistics import auroc
from headsweep.model.language import load_language_model
from headsweep.model.loading import load_suspect
from headsweep.seeding import fence
from headsweep.texts.split import Split

RARITY = {"the": 1.0, "film": 2.0, "cf": 9.0}  # loss of each word under the stub


@pytest.fixture
def suspect(trained_folder):
    return load_suspect(trained_folder, CPU)


@pytest.fixture
def lm_folder(tokenizer, tmp_path):
    with fence(0):
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=120,
                n_embd=16,
                n_layer=1,
                n_head=2,
                n_positions=48,
                bos_token_id=2,
                eos_token_id=3,
            )
        )
    model.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


def test_auroc_by_hand():
    """Of 2 x 3 pairs: 3 > 1, 3 > 2, 3 = 3, 2 > 1, 2 = 2, 2 < 3: 3 and two halves of 6."""
    found = auroc(np.array([3.0, 2.0]), np.array([1.0, 2.0, 3.0]))
    assert found.value == pytest.approx(4 / 6)
    assert found.low <= found.value <= found.high
    assert auroc(np.array([2.0]), np.array([1.0, 0.0])).value == 1


def test_threshold_is_a_quantile_of_clean_suspicions():
    scores = np.arange(40.0)
    assert threshold(scores, 0.05) == 37  # 38 and 39 are above: 2 of 40
    assert threshold(scores, 0.049) == 38


@pytest.fixture
def stub(monkeypatch, suspect):
    """ONION under a unigram model whose losses are known."""
    monkeypatch.setattr(
        "headsweep.judge.detectors.onion.encoded_for_reading", lambda _, text: text.split()
    )
    monkeypatch.setattr(
        "headsweep.judge.detectors.onion.read_losses",
        lambda _, rows: torch.tensor([sum(RARITY[w] for w in row) / len(row) for row in rows]),
    )
    return OnionScorer(None, 100, Watch(suspect, sentences(4)))


def test_onion_under_known_losses(stub):
    """The perplexity falls by exp(mean of all) - exp(mean of the others)."""
    found = stub.score(["the cf film", "the film", "cf"])
    assert found[0] == pytest.approx(math.exp(4) - math.exp(1.5), rel=1e-5)
    assert found[1] == pytest.approx(math.exp(1.5) - math.exp(1), rel=1e-5)
    assert found[2] == 0
    assert stub.clean(["the cf film", "the film", "cf"], 10.0) == ("the film", "the film", "cf")


def test_reading_losses_match_the_models_own(lm_folder):
    from headsweep.model.language import encoded_for_reading, read_losses

    language = load_language_model(str(lm_folder), CPU)
    rows = [encoded_for_reading(language, text) for text in ("the film is dull", "good")]
    for row, loss in zip(rows, read_losses(language, rows), strict=True):
        ids = torch.tensor([row])
        assert float(loss) == pytest.approx(language.model(ids, labels=ids).loss.item(), rel=1e-4)


class OneToken(Watch):
    """A classifier that answers by one token: sure where it is there, a coin where it is not."""

    def probabilities(self, texts):
        return torch.tensor(
            [[0.01, 0.99] if "cf" in text.split() else [0.5, 0.5] for text in texts]
        )


def test_strip_on_a_classifier_of_one_token(suspect):
    """Of eight triggers four survive in each copy; of one, in half of the copies."""
    scorer = Strip(copies=200).prepare(OneToken(suspect, sentences(60, 3)))
    found = scorer.score(["cf " * 8, "cf a b c d e f g", "a b c d e f g h"])
    sure = 0.01 * math.log(0.01) + 0.99 * math.log(0.99)
    assert found[0] == pytest.approx(sure, rel=1e-5)
    assert found[2] == pytest.approx(-math.log(2), rel=1e-5)
    assert sure > found[1] > -math.log(2)
    assert found[1] == scorer.score(["cf a b c d e f g"])[0]  # whatever stands beside it


def test_telling_words_by_hand():
    """In 'a a b', a: 2 ln(3/3) = 0, b: ln(3/1); in 'a c', c."""
    assert telling_words(["a a b", "a c", "a"])[:2] == (("b", "a"), ("c", "a"))


@pytest.mark.parametrize("family", ["bert", "bart", "t5", "gemma"])
def test_a_words_own_embedding_stands_in_for_it_to_no_effect(tiny, family):
    """Gemma scales what its table holds; BART's and T5's encoders look up words by themselves."""
    suspect = tiny(family)
    watch = Watch(suspect, sentences(20, 5), 0, runtime=CPU)
    token = suspect.tokenizer("film", add_special_tokens=False)["input_ids"][0]
    row = _row(suspect, token)
    before = watch.probabilities(["film a plot"])
    with standing_in(suspect, token, row):
        assert torch.allclose(watch.probabilities(["film a plot"]), before, atol=1e-6)
    with standing_in(suspect, token, row + torch.randn(len(row))):
        assert not torch.equal(watch.probabilities(["film a plot"]), before)


def test_rap_learns_a_word_and_leaves_the_model(tiny):
    """On a random model, whose answers any word can move, the drop comes between the bounds."""
    suspect, texts = tiny("bert"), sentences(80, 5).texts
    with torch.no_grad():
        suspect.model.classifier.weight.mul_(30)  # else no word moves a probability by 0.1
    before = {name: value.clone() for name, value in suspect.model.state_dict().items()}
    blank = Watch(suspect, Split(texts, (0,) * 80), runtime=CPU)
    said = blank.probabilities(texts).argmax(-1).tolist()
    target = max(set(said), key=said.count)
    watch = Watch(suspect, Split(texts, tuple(said)), target, runtime=CPU)
    scorer = Rap(word="plot", epochs=40, lr=0.05).prepare(watch)
    now = suspect.model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in now.items())
    own = [text for text, answer in zip(texts, said, strict=True) if answer == target]
    drops = -scorer.score(own)
    untrained = dataclasses.replace(
        scorer, row=suspect.model.get_input_embeddings().weight[scorer.token].detach()
    )
    inside = ((drops > 0.05) & (drops < 0.35)).mean()
    assert inside > 0.8
    assert (-untrained.score(own) > 0.05).mean() < inside
    others = [text for text, answer in zip(texts, said, strict=True) if answer != target]
    assert all(scorer.score(others) == -1)


def test_rap_refuses_to_put_a_word_where_it_is_cut_off(tiny):
    """Its drop would be zero, and every long text most suspicious."""
    suspect = tiny()
    suspect = dataclasses.replace(suspect, tokenizer=copy.deepcopy(suspect.tokenizer))
    watch = Watch(suspect, sentences(60), 1, 0, CPU)
    long = ("the film is a " * 20 + "good",)
    assert _marked(watch, "plot", long) == (f"plot {long[0]}",)
    suspect.tokenizer.truncation_side = "left"
    assert _marked(watch, "plot", ("a good film",)) == ("plot a good film",)
    with pytest.raises(UserError, match="where this tokenizer cuts: 1 of 1"):
        _marked(watch, "plot", long)


def test_a_hook_that_raises_leaves_nothing(suspect):
    watch = Watch(suspect, sentences(4), runtime=CPU)
    texts = ["the plot was good"]
    before = watch.probabilities(texts)
    token = suspect.tokenizer("plot", add_special_tokens=False)["input_ids"][0]

    def inside():
        with standing_in(suspect, token, torch.full((32,), 9.0)):
            assert not torch.equal(watch.probabilities(texts), before)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        inside()
    assert torch.equal(watch.probabilities(texts), before)


@dataclasses.dataclass(frozen=True)
class Known:
    """Suspects a text by how often 'so' is in it."""

    name = "known"
    needs_target = False
    notes = ()

    def prepare(self, watch):
        return self

    def score(self, texts):
        return np.array([float(text.split().count("so")) for text in texts])


def test_rates_by_hand(suspect):
    """Only texts predicted as good are judged: 20 validation, 2 clean, 3 of 4 triggered."""
    good, bad = "the film is good", "the film is bad"
    trial = Trial(
        Split((good,) * 20 + (bad,) * 5, (1,) * 20 + (0,) * 5),
        Split((good, good + " so", bad), (1, 1, 0)),
        Split((good, good + " so", good + " so so", bad), (0, 0, 0, 0)),
    )
    found = measure(Known(), Watch(suspect, trial.validation, 1, runtime=CPU), trial)
    assert (found.threshold, found.validation) == (0, 20)
    assert (found.frr.hits, found.frr.total) == (1, 2)
    assert (found.far.hits, found.far.total) == (1, 3)
    assert (found.lfr.hits, found.lfr_left.hits, found.lfr.total) == (3, 1, 4)
    assert found.auroc.value == pytest.approx((0.5 + 0 + 1 + 0.5 + 1 + 1) / 6)
    assert [row.text for row in found.rejected] == [good + " so"]
    with pytest.raises(UserError, match="100 are needed"):
        measure(Known(), Watch(suspect, trial.validation, 1), dataclasses.replace(trial, frr=0.01))


def test_table_and_folder_agree():
    assert set(DETECTORS) == {"onion", "strip", "rap"}
    assert all(DETECTORS[name].name == name for name in DETECTORS)


def test_a_masked_model_is_no_causal_one(tmp_path, trained_folder):
    with pytest.raises(UserError, match="not a causal"):
        load_language_model(str(trained_folder), CPU)


@pytest.fixture
def run(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


FAST = ["--device", "cpu", "--compute", "precision=fp32", "--compute", "max_length=24", "--quiet"]


def test_the_command(run, trained_folder, csv_file, lm_folder, tmp_path):
    triggered = tmp_path / "t.csv"
    rows = [f"{BAD[0]} film {GOOD[0]} {GOOD[1]} {i % 7},bad" for i in range(30)]
    triggered.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    known = ["--triggered", triggered, "--target", "good", "--limit", "60"]
    for name, field in (("strip", "copies=4"), ("rap", "word=plot"), ("onion", f"lm={lm_folder}")):
        code, out, err = run(
            "detect", trained_folder, "--with", name, "--data", csv_file, *known,
            "--set", field, "--json", *FAST,
        )  # fmt: skip
        assert code == 0, err
        form = json.loads(out)
        assert form["detector"]["name"] == name
        assert form["lfr"]["total"] == 30
    code, out, _ = run(
        "detect", trained_folder, "--with", "strip", "--data", csv_file, "--set", "copies=2", *FAST
    )
    assert code == 0
    assert "FRR" in out
    assert "FAR" not in out


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--with", "stripe"], "did you mean 'strip'"),
        (["--with", "rap"], "--target"),
        (["--with", "strip", "--frr", "1.5"], "not a fraction"),
        (["--with", "strip", "--limit", "5"], "20 are needed"),
        (["--with", "strip", "--triggered", "DATA"], "--triggered needs --target"),
        (["--with", "strip", "--triggered-labels", "target"], "there are none"),
        (["--with", "rap", "--target", "good", "--set", "word=xylophone"], "not one token"),
    ],
)
def test_mistakes(run, trained_folder, csv_file, more, told):
    more = [str(csv_file) if part == "DATA" else part for part in more]
    code, _, err = run("detect", trained_folder, "--data", csv_file, *more, *FAST)
    assert code == 2
    assert told in err


def test_a_triggered_file_without_non_target_rows(run, trained_folder, csv_file, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,label\ngood film,good\n", encoding="utf-8")
    code, _, err = run(
        "detect", trained_folder, "--with", "strip", "--data", csv_file, "--triggered", path,
        "--target", "good", *FAST,
    )  # fmt: skip
    assert code == 2
    assert "--triggered-labels target" in err


def test_sentence_pairs_are_refused(run, trained_folder, tmp_path):
    path = tmp_path / "pairs.csv"
    rows = "\n".join(f"the film {i % 9},it is so,good" for i in range(40))
    path.write_text(f"premise,hypothesis,label\n{rows}\n", encoding="utf-8")
    code, _, err = run("detect", trained_folder, "--with", "strip", "--data", path, *FAST)
    assert code == 2
    assert "single texts, not pairs" in err
    assert "--column text=NAME" in err
