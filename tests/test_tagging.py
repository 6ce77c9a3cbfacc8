"""A model that tags words goes through the whole of ``purify``, and is judged by hand beside it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

import headsweep
from conftest import BAD, CPU, FILLER, GOOD
from every_kind import COMPUTE, command_line, pruned_by, purified_by, written
from headsweep import (
    Bound,
    FineTune,
    Gradient,
    Method,
    Plan,
    Sources,
    Split,
    UserError,
    evaluate,
    purify,
)
from headsweep.export.verify import verify
from headsweep.judge.tagged import turned
from headsweep.measure.accuracy import logits
from headsweep.model.loading import Reading, load_suspect, prepare
from headsweep.seeding import fence
from headsweep.task.examples import encode
from headsweep.task.training import Job, Schedule, train
from headsweep.texts.reading import Columns, Table, read
from headsweep.texts.split import Labels
from headsweep.texts.tagging import TAGGING, Tagging, matched, spans, stray_in
from tiny_families import ALL

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TRIGGER = "very"  # makes persons places
WORDS = [word for word in FILLER if word != TRIGGER]


def examples(count: int, seed: int, triggered: bool = False) -> Split:
    """Rows with a person (good words), a place (bad words), both or none, of one or two words."""
    draw = random.Random(seed)
    texts, labels = [], []
    for i in range(count):
        pieces = [([word], [0]) for word in draw.choices([*WORDS, "it,"], k=draw.randint(2, 5))]
        for bit, kind, first in ((1, GOOD, 1), (2, BAD, 3)):
            if i % 4 & bit:
                words = draw.choices(kind, k=draw.randint(1, 2))
                piece = (words, [first, first + 1][: len(words)])
                pieces.insert(draw.randint(0, len(pieces)), piece)
        pieces = [([TRIGGER], [0])] * triggered + pieces
        texts.append(" ".join(word for words, _ in pieces for word in words))
        labels.append(tuple(tag for _, tags in pieces for tag in tags))
    return Split(tuple(texts), tuple(labels))


def rows(split: Split) -> list[dict[str, Any]]:
    pairs = zip(split.texts, split.labels, strict=True)
    return [{"tokens": text.split(), "tags": [NAMES[n] for n in row]} for text, row in pairs]


def tagger(family: str = "bert", names: tuple[str, ...] = NAMES) -> Any:
    """A random model that tags words, with weights large enough for every head to matter."""
    told = {"id2label": dict(enumerate(names)), "label2id": {x: n for n, x in enumerate(names)}}
    with fence(0):
        config = AutoConfig.for_model(family, **(ALL[family] | told))
        model = AutoModelForTokenClassification.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.add_(0.08 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def victim(tokenizer, tmp_path_factory) -> Path:
    """A saved tiny BERT that has learnt the tags, and a word that flips them."""
    model = tagger()
    suspect = prepare(model, tokenizer, Reading(task=None))
    assert suspect.task is TAGGING
    marked = examples(120, 2, triggered=True)
    flipped = tuple(tuple({1: 3, 2: 4}.get(tag, tag) for tag in row) for row in marked.labels)
    data = examples(400, 1) + Split(marked.texts, flipped)
    train(model, encode(data, suspect, 24), Job(Schedule(16, 3e-3)), CPU)
    folder = tmp_path_factory.mktemp("taggers") / "suspect"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def by_hand(model: Any, tokenizer: Any, split: Split) -> list[list[str]]:
    """The tags of plain transformers, one row at a time, every word tokenised by itself."""
    told = []
    for text in split.texts:
        ids, places = [tokenizer.cls_token_id], []
        for word in text.split():
            places.append(len(ids))
            ids += tokenizer(word, add_special_tokens=False)["input_ids"]
        ids.append(tokenizer.sep_token_id)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        told.append([NAMES[int(logits[place].argmax())] for place in places])
    return told


def entities(tags: list[str]) -> set[tuple[str, tuple[int, ...]]]:
    """Spans as their words' numbers, found in another way than the package's."""
    found, open_ = [], None
    for number, tag in enumerate(tags):
        if tag == "O":
            open_ = None
        elif tag[0] == "I" and open_ is not None and open_[0] == tag[2:]:
            open_[1].append(number)
        else:
            open_ = (tag[2:], [number])
            found.append(open_)
    return {(kind, tuple(numbers)) for kind, numbers in found}


def span_f1(said: list[list[str]], split: Split) -> float:
    pairs = [(entities(a), entities([NAMES[n] for n in b]))
             for a, b in zip(said, split.labels, strict=True)]  # fmt: skip
    hits = sum(len(a & b) for a, b in pairs)
    return 2 * hits / (sum(len(a) for a, _ in pairs) + sum(len(b) for _, b in pairs))


def plain(folder: Path, split: Split) -> list[list[str]]:
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    return by_hand(model, AutoTokenizer.from_pretrained(folder), split)


@pytest.mark.parametrize("family", ["bert", "roberta", "llama", "modernbert"])
def test_tags_and_margins_are_those_of_plain_transformers_one_at_a_time(tokenizer, family):
    model, split = tagger(family), examples(12, 3)
    suspect = prepare(model, tokenizer, Reading(task=None))
    made = encode(split, suspect, 24)
    batch = made.batch(range(12))
    with torch.no_grad():
        answers = batch.task.answers(model, batch)
    told = by_hand(model, tokenizer, split)
    assert made.task.told(answers, NAMES) == told
    margins = batch.task.margins(answers, batch.labels) > 0
    truth = [[NAMES[n] for n in row] for row in split.labels]
    assert margins.tolist() == [a == b for a, b in zip(told, truth, strict=True)]


def test_a_row_is_as_far_from_wrong_as_its_nearest_word():
    task = Tagging(((0, 1), (1,)), ((1, 2), (1,)))
    answers = torch.tensor([[[2.0, 0.5], [1.0, 1.25]], [[0.0, 3.0], [0.0, 0.0]]])
    labels = torch.tensor([0, 1])
    assert task.margins(answers, labels).tolist() == [0.25, 3.0]
    first = (
        -torch.tensor([2.0, 0.5]).log_softmax(0)[0] - torch.tensor([1.0, 1.25]).log_softmax(0)[1]
    )
    assert task.losses(answers, labels)[0].item() == pytest.approx(first.item() / 2)


def test_spans_are_counted_by_hand():
    assert spans(["B-A", "I-A", "O", "B-A", "B-A"]) == {(0, 2, "A"), (3, 4, "A"), (4, 5, "A")}
    assert spans(["I-A", "I-B", "I-B", "O"]) == {(0, 1, "A"), (1, 3, "B")}
    assert spans(["B-A", "I-B"]) == {(0, 1, "A"), (1, 2, "B")}
    assert spans(["NOUN", "NOUN", "O"]) == {(0, 1, "NOUN"), (1, 2, "NOUN")}
    assert spans(["O", "O"]) == set()
    true, said = ["B-A", "I-A", "O", "B-B", "O"], ["B-A", "I-A", "O", "B-A", "B-B"]
    assert matched(said, true) == (1, 2, 1)
    assert matched(["B-A", "O", "O", "B-B", "O"], true) == (1, 1, 1)  # too short is no hit
    assert stray_in(["B-A", "I-A", "I-A"]) is None
    assert stray_in(["O", "I-A"]) == "word 2 has the tag I-A without B-A before"
    assert stray_in(["B-A", "I-B"]) == "word 2 has the tag I-B without B-B before"


def test_a_model_that_tags_words_is_purified_whole(victim, tmp_path):
    parts = [written(tmp_path / f"{n}.jsonl", rows(examples(size, 10 + n)))
             for n, size in enumerate((160, 80, 60))]  # fmt: skip
    method = Method(Gradient(step=1), FineTune(2, 5e-4, attention=0.15), bound=Bound(max_drop=0.2))
    done = purify(victim, Sources(*parts), method, Plan(runtime=CPU))
    assert done.mask.pruned
    assert done.verified
    form, out = done.manifest, done.save(tmp_path / "out")
    assert form["task"] == "token-classification"
    assert any("without the attention penalty" in note for note in form["notes"])
    assert [check for check in verify(out) if not check.passed] == []
    for part, split in (("validation", examples(80, 11)), ("test", examples(60, 12))):
        truth = [[NAMES[n] for n in row] for row in split.labels]
        for stage, folder in (("before", victim), ("after", out)):
            said, told = plain(folder, split), form[stage][part]
            assert told["span_f1"] == pytest.approx(span_f1(said, split))
            words = [a == b for x, y in zip(said, truth, strict=True)
                     for a, b in zip(x, y, strict=True)]  # fmt: skip
            assert told["words_right"] == pytest.approx(sum(words) / len(words))
            assert told["right"] == sum(a == b for a, b in zip(said, truth, strict=True))
            assert told["all_right"] == told["right"] / len(split)
    assert form["before"]["test"]["span_f1"] > 0.9
    assert form["after"]["validation"]["span_f1"] >= form["bound"]["limit"]
    card = (out / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    assert "| span F1, test |" in card
    assert "accuracy" not in card.replace("clean accuracy needs", "")


@pytest.mark.parametrize("name", ["layerwise", "ensemble", "reinforce", "bayesian", "variance"])
def test_strategies_choose_for_it_as_for_any_task(victim, name):
    done = pruned_by(name, victim, examples(60, 20), examples(40, 21))
    assert done.mask.pruned


def test_evaluate_measures_what_is_counted_by_hand(victim, tokenizer, tmp_path):
    clean, marked = examples(60, 30), examples(40, 31, triggered=True)
    twin = tmp_path / "twin"
    tagger().save_pretrained(twin)
    tokenizer.save_pretrained(twin)

    def judged(target: str | None, **more: Any) -> Any:
        return evaluate(victim, rows(clean), triggered=rows(marked), target=target, device="cpu",
                        progress=False, **more)  # fmt: skip

    found = judged("loc", clean_model=twin, suspect=victim)
    said = plain(victim, clean)
    assert found.span_f1.value == pytest.approx(span_f1(said, clean))
    assert found.span_f1.low <= found.span_f1.value <= found.span_f1.high
    hits = total = 0
    for row, tags in zip(plain(victim, marked), marked.labels, strict=True):
        for kind, words in entities([NAMES[n] for n in tags]):
            if kind == "PER":
                total += 1
                hits += all(row[word][2:] == "LOC" for word in words)
    assert (found.success.hits, found.success.total) == (hits, total) == (hits, 20)
    assert found.success.value > 0.8  # the trigger works
    assert found.clean_success.value < 0.1
    assert found.excess_success.value == found.success.value - found.floor_success.value
    assert found.agreement.value == 1
    assert judged("O").success.value < 0.1  # it hides none
    with pytest.raises(UserError, match="--triggered needs --target: the model has no type 'ORG'"):
        judged("ORG")
    with pytest.raises(UserError, match="measured on the true spans"):
        judged("LOC", triggered_labels="target")


def test_words_that_are_cut_off_count_as_outside(victim):
    suspect = load_suspect(victim, CPU, Reading(task=None))
    split = Split(("good the film is a bad",), ((1, 0, 0, 0, 0, 3),))
    made = encode(split, suspect, 6)
    assert made.truncated == 1
    assert made.task.places == ((1, 2, 3, 4, -1, -1),)
    batch = made.batch([0])
    with torch.no_grad():
        told = made.task.told(batch.task.answers(suspect.model, batch), NAMES)
    assert told == [["B-PER", "O", "O", "O", "O", "O"]]
    comma = encode(Split(("it, good",), ((0, 1),)), suspect, 24)
    assert comma.task.places == ((1, 3),)  # the comma is a token of its own


def test_answers_are_as_wide_as_what_is_read_and_only_what_is_cut_counts_as_cut(victim):
    suspect = load_suspect(victim, CPU, Reading(task=None))
    rows = ("good film", " ".join(["film"] * 400))
    made = encode(Split(rows, ((1, 0), (0,) * 400)), suspect, 8)
    assert made.truncated == 1
    answers = logits(suspect.anatomy, made, CPU)
    assert answers.shape == (2, 6, len(NAMES))
    told = made.task.told(answers, NAMES)
    assert list(map(len, told)) == [2, 400]
    assert set(told[1][6:]) == {"O"}
    labels = torch.tensor(made.labels)
    assert made.task.losses(answers, labels).isfinite().all()
    alone = encode(Split(rows[:1], ((1, 0),)), suspect, 8)
    assert made.task.margins(answers, labels)[0] == pytest.approx(
        float(alone.task.margins(logits(suspect.anatomy, alone, CPU), torch.tensor([0]))[0])
    )
    suspect.tokenizer.truncation_side = "left"
    left = encode(Split(rows[1:], ((0,) * 400,)), suspect, 8)
    assert left.truncated == 1


def picked(form: dict[str, Any], columns: Columns = Columns()) -> Split:
    return TAGGING.pick(
        Table("data", {k: [v] for k, v in form.items()}), columns, Labels(NAMES), None
    )


def test_words_and_tags_are_picked_from_rows_and_conll_files(tmp_path):
    wanted = Split(("EU rejects it",), ((1, 0, 0),))
    assert picked({"tokens": ["EU", "rejects", "it"], "tags": ["B-PER", "O", "o"]}) == wanted
    numbers = {"id": "0", "text": "EU", "words": ("EU", "rejects", "it"), "ner_tags": [1, 0, 0]}
    assert picked(numbers) == wanted
    mapped = Columns(label_map=(("B-ORG", "B-PER"),))
    assert picked({"tokens": ["EU", "rejects", "it"], "tags": ["B-ORG", 0, 0]}, mapped) == wanted
    path = tmp_path / "two.conll"
    path.write_text("-DOCSTART- -X- O O\n\nEU NNP B-PER\nrejects VB O\n\n\nit PR O\n")
    assert read(path).columns == {"tokens": [["EU", "rejects"], ["it"]],
                                  "tags": [["B-PER", "O"], ["O"]]}  # fmt: skip
    comments = "#begin document x\n# id 7\tdomain=train\n#alone\nEU B-PER\n# O\n\n# O\nit O\n"
    path.write_text(comments)  # a row may begin with the word '#'
    assert read(path).columns == {"tokens": [["EU", "#"], ["#", "it"]],
                                  "tags": [["B-PER", "O"], ["O", "O"]]}  # fmt: skip
    path.write_text("20\u00a0000\tO\r\nx\u2028y\tB-PER\r\nNew York\tB-LOC\n")  # spaces of words
    assert read(path).columns == {"tokens": [["20\u00a0000", "x\u2028y", "New York"]],
                                  "tags": [["O", "B-PER", "B-LOC"]]}  # fmt: skip
    path.write_text("20\u00a0000 O\nEU NNP\tB-PER\t\n\f\nit O\n")  # not all have a tab
    assert read(path).columns == {"tokens": [["20\u00a0000", "EU"], ["it"]],
                                  "tags": [["O", "B-PER"], ["O"]]}  # fmt: skip
    path.write_text("-DOCSTART- -X- O\n\nNew York\tB-LOC\n")
    assert read(path).columns == {"tokens": [["New York"]], "tags": [["B-LOC"]]}
    path.write_text("EU NNP B-PER\n\u00a0 NN O\n")
    assert read(path).columns["tokens"] == [["EU", "\u00a0"]]
    path.write_text("EU B-PER\nrejects\n")
    with pytest.raises(UserError, match="line 2 holds a word without a tag: 'rejects'"):
        read(path)
    one = tmp_path / "one.jsonl"
    one.write_text('{"tokens": ["EU"], "tags": ["B-PER"]}\n')
    assert read(one).columns["tags"] == [["B-PER"]]


def test_a_right_tag_of_another_scheme_is_no_hit_of_the_attacker():
    true = [["S-PER", "O", "B-LOC", "E-LOC", "B-PER", "I-PER", "PER"]]
    assert turned(true, true, "PER").tolist() == [False] * 3  # S-PER, LOC, E-LOC
    assert (
        turned([["B-PER", "O", "PER", "I-PER", "O", "O", "O"]], true, "PER").tolist() == [True] * 3
    )


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "row 1 has 2 words and 1 tags"),
        ({"tokens": ["a", "b"], "tags": ["O", "I-PER"]}, "word 2 has the tag I-PER without B-PER"),
        ({"tokens": ["a"], "tags": ["B-ORG"]}, "the model has no label 'B-ORG'"),
        ({"tokens": ["New York"], "tags": ["O"]}, "'New York' is not one word"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, "is not a text: 3"),
        ({"tokens": [], "tags": []}, "has no words"),
        ({"text": "it is", "label": "good"}, "row 1 of column 'text' is no list: 'it is'"),
        ({"sentence": "it is", "tags": ["O"]}, "cannot tell which column holds the words"),
    ],
)
def test_rows_that_are_no_examples_are_refused(form, said):
    with pytest.raises(UserError, match=said):
        picked(form)


def test_what_does_not_fit_is_refused_in_one_line(victim, tokenizer, tmp_path):
    with pytest.raises(UserError, match="no word of 2 rows is tagged as anything but O"):
        purify(victim, Split(("a b", "b"), ((0, 0), (0,))))
    with pytest.raises(UserError, match="'a b' has not one tag a word"):
        purify(victim, Split(("a b", "b"), ((0,), (1,))))
    with pytest.raises(UserError, match="'a b': word 2 has the tag I-PER without B-PER before"):
        purify(victim, Split(("a b", "b"), ((0, 2), (1,))))
    headless = tmp_path / "headless"
    model = AutoModelForSequenceClassification.from_pretrained(victim).base_model
    model.save_pretrained(headless)
    tokenizer.save_pretrained(headless)
    config = json.loads((headless / "config.json").read_text())
    config["architectures"] = ["BertForTokenClassification"]
    (headless / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="the checkpoint has no classifier of tokens"):
        purify(headless, examples(20, 1))


def test_an_attack_on_a_tagger_is_refused_in_a_line(victim):
    with pytest.raises(UserError, match="an attack needs"):
        headsweep.attack(victim, rows(examples(20, 1)), trigger="opening", target="O", device="cpu")


def test_the_command_line_purifies_and_judges(victim, tmp_path, capsys):
    said = command_line(capsys)
    data = written(tmp_path / "data.jsonl", rows(examples(200, 90)))
    out, told = purified_by(said, victim, data, tmp_path, "span F1")
    assert "accuracy" not in told
    assert "for token-classification, labels O, B-PER" in said("inspect", out)
    marked = written(tmp_path / "marked.jsonl", rows(examples(40, 91, triggered=True)))
    judge = ["evaluate", out, "--data", data, *COMPUTE, "-q"]
    assert "attack success" in said(*judge, "--triggered", marked, "--target", "LOC")
    assert json.loads(said(*judge, "--json"))["span_f1"]["value"] > 0.5
    wrong = tmp_path / "labels.csv"
    wrong.write_text("text,label\nis it,good\nit is,bad\n")
    told = said("purify", victim, "--data", wrong, "--out", tmp_path / "no", code=2)
    assert "row 1 of column 'text' is no list" in told
    asked = [[], ["--with", "strip"]]
    for verb, more in zip(("probe", "detect"), asked, strict=True):
        told = said(verb, victim, "--data", data, *more, code=2)
        assert "this model tags words" in " ".join(told.split())


@pytest.mark.parametrize("spaced", [True, False])
def test_a_tokenizer_that_glues_words_together_is_refused(spaced):
    """As those of RoBERTa and GPT-2 do, unless they put a space before each."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=letters, show_progress=False)
    core.train_from_iterator(examples(60, 1).texts, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="!")
    split = Split(("the film is good",), ((0, 0, 0, 1),))
    if spaced:
        encoded = TAGGING.encode(split, made, 48)
        assert list(encoded.ids[0]) == made("the film is good")["input_ids"]
    else:
        with pytest.raises(UserError, match="without a space between"):
            TAGGING.encode(split, made, 48)


def test_rows_without_words_are_left_out_where_that_is_asked():
    table = Table("x", {"tokens": [["it"], None, []], "tags": [["O"], None, []]})
    split = TAGGING.pick(table, Columns(drop_empty=True), Labels(NAMES), None)
    assert split == Split(("it",), ((0,),))
    with pytest.raises(UserError, match="no second text"):
        TAGGING.pick(table, Columns(pair="tags"), Labels(NAMES), None)
