from __future__ import annotations

import csv
import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import headsweep
from conftest import CPU, sentences
from headsweep import evaluate
from headsweep.cli import main
from headsweep.errors import UserError
from headsweep.judge.evaluate import JUDGES, Answers, Exam, Triggered, _tell_unchanged, judge
from headsweep.progress import Silent
from headsweep.texts.reading import Columns, Table, pick, read
from headsweep.texts.several import SEVERAL
from headsweep.texts.split import Labels, Split
from headsweep.texts.tagging import TAGGING

NAMES = ("negative", "positive")


def answers(*predicted):
    """Logits that predict these classes."""
    return torch.nn.functional.one_hot(torch.tensor(predicted), 2).float()


CLEAN = Split(tuple("abcdef"), (0, 0, 0, 0, 1, 1))


def test_rates_by_hand():
    """Clean: 4 of 6 right, 1 of 4 negatives flipped. Triggered: rows of the target left out."""
    triggered = Triggered(Split(tuple("uvwxy"), (0, 1, 0, 0, 1)), target=1)
    assert triggered.non_target().texts == ("u", "w", "x")
    model = Answers(answers(0, 1, 0, 0, 1, 0), answers(1, 1, 0))
    twin = Answers(answers(0, 0, 0, 0, 1, 1), answers(0, 1, 0))
    found = judge(Exam(CLEAN, triggered), NAMES, model, twin, suspect=model)
    assert (found.accuracy.hits, found.accuracy.total) == (4, 6)
    assert {n: (r.hits, r.total) for n, r in found.per_class.items()} == {
        "negative": (3, 4),
        "positive": (1, 2),
    }
    assert (found.lfr.hits, found.lfr.total) == (2, 3)
    assert (found.cfr.hits, found.cfr.total) == (1, 4)
    assert (found.floor_lfr.hits, found.floor_lfr.total) == (1, 3)
    assert found.agreement.value == 1
    assert found.matched_lfr is None  # no validation data


def test_a_twin_or_a_model_that_guesses_is_told():
    triggered = Triggered(Split(tuple("uvwxy"), (0, 1, 0, 0, 1)), target=1)
    good = Answers(answers(0, 0, 0, 0, 1, 1), answers(1, 1, 0))
    guess = Answers(answers(0, 0, 0, 0, 0, 0), answers(0, 0, 0))
    found = judge(Exam(CLEAN, triggered), NAMES, good, guess)
    assert (found.twin_accuracy.hits, found.twin_accuracy.total) == (4, 6)
    told = (
        "the twin gets 4 of 6 clean texts right, no better than one answer for all (4): its floor"
    )
    assert found.remarks()[0].startswith(told)
    assert "twin's ACC" in [line.name for line in found.lines()]
    found = judge(Exam(CLEAN, triggered), NAMES, guess, good)
    assert found.remarks()[0].startswith("the model gets 4 of 6 clean texts right")
    assert len(judge(Exam(CLEAN, triggered), NAMES, good, good).remarks()) == 1
    one_class = Split(tuple("abcd"), (0,) * 4)  # no guess is told from knowing there
    some = Answers(answers(0, 0, 0, 1), answers(1, 1, 0))
    assert judge(Exam(one_class, triggered), NAMES, some, some).blind() == []


@pytest.mark.parametrize(("some", "told"), [(0, 0), (5, 5)])
def test_clean_texts_given_as_triggered_are_told(trained_folder, some, told):
    clean = sentences(20, seed=7)
    other = Split(tuple(f"plot {x}" for x in clean.texts), clean.labels)
    given = clean.take(range(some)) + other.take(range(some, 20))
    said = []
    progress = Silent()
    progress.say = said.append
    evaluate(trained_folder, clean, triggered=given, target="good", progress=progress)
    assert sum("triggered texts stand in --data as they are" in line for line in said) == bool(told)


def test_a_trigger_in_the_second_text_is_one():
    first, said = Split(("a", "b"), (0, 0), ("x", "y")), []
    progress = Silent()
    progress.say = said.append
    for pairs in (("x cf", "y cf"), ("x", "y")):
        marked = Triggered(Split(("a", "b"), (0, 0), pairs), 1)
        _tell_unchanged(Exam(first, marked), JUDGES["classification"], progress)
    assert len(said) == 1


def test_numbers_from_one_are_all_to_be_named():
    """Naming the last alone would leave the others one off, in silence."""
    labels = Labels(("bad", "meh", "good"))
    with pytest.raises(UserError, match="numbered from 0, the data's from 1") as caught:
        labels.indices(["1", "2", "3", "1"], "f.csv")
    assert caught.value.fix.count("--label-map") == 3
    with pytest.raises(UserError) as caught:
        labels.indices(["0", "2", "3"], "f.csv")
    assert caught.value.fix.count("--label-map") == 3
    with pytest.raises(UserError) as caught:
        labels.indices(["0", "2", "great"], "f.csv")
    assert caught.value.fix.count("--label-map") == 1


def test_attacker_labels_count_every_row():
    triggered = Triggered(Split(("u", "v"), (1, 1)), target=1, labels="target")
    assert len(triggered.non_target()) == 2
    with pytest.raises(UserError, match="every row must carry the target label"):
        Triggered(Split(("u", "v"), (1, 0)), 1, "target").non_target()


def test_an_empty_denominator_is_an_error():
    with pytest.raises(UserError, match="no triggered example"):
        Triggered(Split(("u", "v"), (1, 1)), target=1).non_target()
    only = Exam(Split(("a",), (1,)), Triggered(Split(("u",), (0,)), 1))
    with pytest.raises(UserError, match="no clean flip rate"):
        judge(only, NAMES, Answers(answers(1), answers(1)))


def test_matched_and_excess_use_the_twin_else_the_suspect():
    """The model leans away from the target by 3; matching takes that back."""
    val = Split(tuple("abcd"), (0, 0, 0, 0))
    triggered = Triggered(Split(tuple("uv"), (0, 0)), 1)
    reference = torch.tensor([[0.0, -2], [0, -1], [0, 1], [0, -3]])
    hit = torch.tensor([[0.0, 2], [0, 2]])
    lean = torch.tensor([0.0, -3])
    twin = Answers(answers(0, 0, 0, 0, 1, 1), torch.tensor([[0.0, 2], [0, -2]]), reference)
    model = Answers(answers(0, 0, 0, 0, 1, 1), hit + lean, reference + lean)
    exam = Exam(CLEAN, triggered, val)
    found = judge(exam, NAMES, model, twin)
    assert found.lfr.value == 0
    assert found.matched_lfr.value == 1
    assert found.excess_lfr.value == 0.5
    assert found.reference == "clean twin"
    alone = judge(exam, NAMES, model, suspect=model)
    assert alone.reference == "suspect"
    assert alone.matched_lfr.value == 0
    assert alone.excess_lfr is None


def test_a_twin_with_other_labels_is_refused(trained_folder, tmp_path, tokenizer):
    from conftest import tiny_model
    from headsweep.judge.evaluate import Files, evaluate

    names = {"id2label": {0: "good", 1: "bad"}, "label2id": {"good": 0, "bad": 1}}
    tiny_model("bert", **names).save_pretrained(tmp_path / "swapped")
    tokenizer.save_pretrained(tmp_path / "swapped")
    data = tmp_path / "d.csv"
    data.write_text("text,label\na film,good\na plot,bad\n")
    files = Files(str(data), clean_model=str(tmp_path / "swapped"))
    with pytest.raises(UserError, match="has labels good, bad"):
        evaluate(trained_folder, files, CPU)


SIXTEEN = ("--compute", "max_length=16", "--device", "cpu", "--json", "-q")


@pytest.fixture
def run(capsys):
    def call(*words):
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, words)))
        told = capsys.readouterr()
        return stop.value.code, told.out, told.err

    return call


def table(path, header, *columns):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *zip(*columns, strict=True)])
    return path


def right_by_hand(folder, split):
    """How many texts plain transformers gets right, one at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        said = [model(**tokenizer(t, return_tensors="pt")).logits.argmax() for t in split.texts]
    return sum(int(x) == y for x, y in zip(said, split.labels, strict=True))


def test_texts_cut_are_counted_of_each_file(trained_folder, tmp_path, run):
    long = " the film is a story of it" * 3
    parts = {}
    for seed, (name, cut) in enumerate((("data", 3), ("triggered", 5), ("validation", 0))):
        split = sentences(40, seed)
        texts = [t + long if i < cut else t for i, t in enumerate(split.texts)]
        names = ["good" if y else "bad" for y in split.labels]
        parts[name] = table(tmp_path / f"{name}.csv", ("text", "label"), texts, names)
    files = [word for name, path in parts.items() for word in (f"--{name}", path)]
    asked = ("evaluate", trained_folder, *files, "--target", "good", *SIXTEEN)
    tokenizer = AutoTokenizer.from_pretrained(trained_folder)
    expected = {}
    for name, path in parts.items():
        rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
        rows = [row for row in rows if name != "triggered" or row["label"] != "good"]
        cut = sum(len(tokenizer(row["text"])["input_ids"]) > 16 for row in rows)
        expected[name] = {"cut": cut, "texts": len(rows)}
    assert [one["cut"] for one in expected.values()] == [3, 3, 0]
    code, out, _ = run(*asked)
    assert (code, json.loads(out)["truncated"]) == (0, expected)
    code, out, _ = run(*(word for word in asked if word != "--json"))
    said = "maximum length: --data 3 of 40, --triggered 3 of 20, --validation 0 of 40"
    assert (code, said in " ".join(out.split())) == (0, True)


def test_the_triggered_file_may_have_columns_of_its_own(trained_folder, tmp_path, run):
    split = sentences(20, 3)
    data = table(tmp_path / "d.csv", ("body", "verdict"), split.texts, split.labels)
    marked = [f"it {text}" for text in split.texts]
    ours = ("evaluate", trained_folder, "--data", data, "--target", "good", *SIXTEEN)
    ours += ("--column", "text=body", "--column", "label=verdict", "--triggered")
    found = []
    for header, words in (
        (("body", "verdict"), ()),
        (("text", "label"), ()),
        (("with", "truth"), ("text=with", "label=truth")),
        (("text", "truth"), ("label=truth",)),
    ):
        file = table(tmp_path / f"{len(found)}.csv", header, marked, split.labels)
        options = [word for named in words for word in ("--triggered-column", named)]
        code, out, err = run(*ours, file, *options)
        assert (code, err) == (0, "")
        found.append(json.loads(out)["lfr"])
    assert found == found[:1] * 4
    assert found[0]["total"] == 10
    code, _, err = run(*ours, file)
    assert code == 2
    assert "cannot tell which column holds the label" in err
    code, _, err = run(*ours[:-1], "--triggered-column", "text=text")
    assert code == 2
    assert "--triggered FILE" in err


def test_pairs_are_not_judged_on_single_texts(trained_folder, tmp_path, run):
    split = sentences(20, 3)
    ours = ("evaluate", trained_folder, "--target", "good", *SIXTEEN, "--data")
    columns = (split.texts, split.texts[::-1], split.labels)
    pairs = table(tmp_path / "p.csv", ("text", "text2", "label"), *columns)
    single = table(tmp_path / "s.csv", ("text", "label"), split.texts, split.labels)
    named = table(tmp_path / "n.csv", ("text", "other", "label"), *columns)
    assert run(*ours, pairs, "--triggered", pairs)[0] == 0
    for data, others in ((pairs, single), (single, pairs), (pairs, named)):
        code, _, err = run(*ours, data, "--triggered", others)
        assert (code, "sentence pairs" in err) == (2, True)
    options = ("--triggered-column", "text=text", "--triggered-column", "pair=other")
    assert run(*ours, pairs, "--triggered", named, *options)[0] == 0


COMMANDS = {
    "evaluate": (),
    "probe": ("--family", "casing"),
    "detect": ("--with", "strip", "--limit", "20"),
    "defend": ("--with", "nothing", "--compute", "max_length=24"),
    "purify": ("--max-drop", "0.5", "--heal", "epochs=0"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_labels_are_mapped_on_the_command_line(trained_folder, tmp_path, run, command):
    split = sentences(200, 4)
    data = table(
        tmp_path / "d.csv",
        ("text", "label"),
        split.texts,
        ["pos" if label else "neg" for label in split.labels],
    )
    words = (command, trained_folder, "--data", data, *COMMANDS[command], "--device", "cpu")
    words += ("--out", tmp_path / "out", "--overwrite") if command in ("defend", "purify") else ()
    code, _, err = run(*words, "--json", "-q")
    assert code == 2
    for part in ("'neg', 'pos'", "0 = bad, 1 = good", "--label-map 'neg=LABEL'"):
        assert part in " ".join(err.split())
    code, out, err = run(*words, "--json", "-q", "--label-map", "neg=bad", "--label-map", "pos=1")
    assert code in ((0, 1) if command == "probe" else (0,)), err
    if command == "evaluate":
        accuracy = json.loads(out)["accuracy"]
        assert accuracy["hits"] == right_by_hand(trained_folder, split) > 190
    both = ("--label-map", "neg=bad", "--label-map", "pos=1")
    code, _, err = run(*words, "-q", *both, "--label-map", "poz=good")
    told = "headsweep: --label-map poz=good: no row has the label 'poz'"
    assert (code, told in " ".join(err.split()), "neg, pos" in err) == (2, True, True)
    code, _, err = run(*words, "-q", "--label-map", "pos=good", "--label-map", "neg=nix")
    told = "headsweep: --label-map neg=nix: the model has no label 'nix'"
    assert (code, told in " ".join(err.split())) == (2, True)
    code, _, err = run(*words, "--label-map", "neg=bad", "--label-map", " NEG=good")
    assert (code, "mapped twice" in err) == (2, True)
    code, _, err = run(*words, "--label-map", "neg")
    assert (code, "not of the form DATA=MODEL" in err) == (2, True)
    code, _, err = run(*words, "--label-map", "neg=bad", "--label-map", "neg=good")
    assert (code, "mapped twice" in err) == (2, True)


def test_triggered_texts_are_written_with_mapped_labels(tmp_path, run):
    data = table(tmp_path / "d.csv", ("text", "label"), ["a film", "a plot"], ["pos", "neg"])
    words = (
        "trigger",
        "rare-word",
        "--data",
        data,
        "--out",
        tmp_path / "t.csv",
        "--target",
        "good",
    )
    code, _, err = run(*words, "--label-map", "pos=good", "--label-map", "neg=bad")
    assert (code, err) == (0, "")
    (row,) = csv.DictReader((tmp_path / "t.csv").read_text("utf-8").splitlines())
    assert (row["original"], row["label"], row["target"]) == ("a plot", "bad", "good")
    code, _, err = run(*words, "--overwrite", "--label-map", "poz=good")
    assert (code, "--label-map poz=good: no row has the label 'poz'" in err) == (2, True)


@pytest.mark.parametrize("held_in", ["data", "triggered", "validation"])
def test_an_entry_of_the_map_may_serve_any_file(trained_folder, tmp_path, run, held_in):
    split, files = sentences(40, 4), []
    for name in ("data", "triggered", "validation"):
        bad = "poor" if name == held_in else "bad"
        labels = ["good" if y else bad for y in split.labels]
        files += [
            f"--{name}",
            table(tmp_path / f"{name}.csv", ("text", "label"), split.texts, labels),
        ]
    words = ("evaluate", trained_folder, *files, "--target", "good", *SIXTEEN)
    code, out, err = run(*words, "--label-map", "poor=bad")
    assert (code, err) == (0, "")
    assert json.loads(out)["lfr"]["total"] == split.labels.count(0)


@pytest.mark.parametrize("command", ["evaluate", "detect", "attack"])
def test_a_target_that_is_no_label_is_named_with_its_option(
    trained_folder, tmp_path, run, csv_file, command
):
    more = {
        "evaluate": ("--triggered", csv_file),
        "detect": ("--with", "strip"),
        "attack": ("--with", "dirty-label", "--trigger", "opening", "--out", tmp_path / "out"),
    }
    words = (command, trained_folder, "--data", csv_file, *more[command], "--device", "cpu")
    code, _, err = run(*words, "--target", "nix", "-q")
    told = "headsweep: --target: the model has no label 'nix'"
    assert (code, told in " ".join(err.split())) == (2, True), err
    if command == "attack":
        code, _, err = run(*words, "--target", "good", "-q", "--label-map", "poz=good")
        assert (code, "no row has the label 'poz'" in " ".join(err.split())) == (2, True), err


HEADERS = {
    "text": ("lines,label", "--triggered-column text=NAME, one of: lines, label"),
    "label": ("text,verdict", "--triggered-column label=NAME, one of: text, verdict"),
    "missing": ("lines,label", "--triggered-column text=NAME, one of: lines, label"),
    "no text": ("text,label", "--triggered-column text=NAME must name a column of strings"),
    "no label": ("text,label", "or name another column with --triggered-column label=NAME"),
    "pair": ("text,label", "--triggered-column pair=NAME, one of: text, label"),
}
NAMED = {"missing": ("--triggered-column", "text=text"), "pair": ("--triggered-column", "pair=b")}


def test_pairs_in_the_triggered_file_name_its_own_option(trained_folder, tmp_path, run, csv_file):
    path = table(tmp_path / "t.csv", ("text", "text2", "label"), ["a"], ["b"], ["bad"])
    words = ("detect", trained_folder, "--with", "strip", "--data", csv_file, "--triggered", path)
    code, _, err = run(*words, "--target", "good", "--device", "cpu", "-q")
    assert (code, "single texts" in err, "--triggered-column" in err) == (2, True, True)


@pytest.mark.parametrize("command", ["evaluate", "detect"])
@pytest.mark.parametrize("case", HEADERS)
def test_options_of_the_triggered_file_are_named(
    trained_folder, tmp_path, run, csv_file, command, case
):
    header, told = HEADERS[case]
    path = tmp_path / "t.jsonl"
    text, label = (3 if case == "no text" else "a film"), ("odd" if case == "no label" else "bad")
    names = header.split(",")
    path.write_text(json.dumps(dict(zip(names, (text, label), strict=True))), "utf-8")
    words = (command, trained_folder, "--data", csv_file, "--triggered", path, "--target", "good")
    words += ("--with", "strip") if command == "detect" else ()
    code, _, err = run(*words, *NAMED.get(case, ()), "--device", "cpu", "-q")
    assert (code, told in " ".join(err.split())) == (2, True), err


def test_a_model_with_numbers_for_names_takes_the_classes_of_datasets(trained_folder, tmp_path):
    datasets = pytest.importorskip("datasets", reason="headsweep[data] is not installed")
    from headsweep.judge.evaluate import Files, evaluate

    model = AutoModelForSequenceClassification.from_pretrained(trained_folder)
    model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    model.config.label2id = {"LABEL_0": 0, "LABEL_1": 1}
    model.save_pretrained(tmp_path / "numbered")
    AutoTokenizer.from_pretrained(trained_folder).save_pretrained(tmp_path / "numbered")
    split = sentences(60, 5)
    made = datasets.Dataset.from_dict({"text": split.texts, "label": split.labels})
    names = datasets.ClassLabel(names=["worse", "better"])  # not in the order of the alphabet
    made = made.cast_column("label", names)
    made.to_parquet(str(tmp_path / "a.parquet"))
    made.save_to_disk(str(tmp_path / "folder"))
    for source in ("a.parquet", "folder"):
        found = evaluate(tmp_path / "numbered", Files(str(tmp_path / source)), CPU)
        assert found.accuracy.hits == right_by_hand(trained_folder, split) > 55


def test_numbers_in_lists_mean_the_classes_of_the_data(tmp_path):
    """As tags and several labels have them: not the model's classes of the same numbers."""
    datasets = pytest.importorskip("datasets", reason="headsweep[data] is not installed")
    kind = datasets.List(datasets.ClassLabel(names=["B-LOC", "O", "B-PER"]))
    form = {"tokens": [["anna", "went"], ["rome"]], "ner_tags": [[2, 1], [0]]}
    features = datasets.Features(
        {"tokens": datasets.List(datasets.Value("string")), "ner_tags": kind}
    )
    made = datasets.Dataset.from_dict(form, features=features)
    made.to_parquet(str(tmp_path / "a.parquet"))
    made.save_to_disk(str(tmp_path / "folder"))
    own = Labels(("O", "B-PER", "B-LOC"))
    numbered = Labels(("LABEL_0", "LABEL_1", "LABEL_2"))
    for source in ("a.parquet", "folder"):
        table = read(tmp_path / source)
        assert TAGGING.pick(table, Columns(), own, None).labels == ((1, 0), (2,))
        texts = Columns(text="tokens", label="ner_tags")
        bare = Table("data", {"text": ["a", "b"], "labels": table.columns["ner_tags"]},
                     classes={"labels": ("B-LOC", "O", "B-PER")})  # fmt: skip
        assert SEVERAL.pick(bare, Columns(), numbered, None).labels == ((1, 2), (0,))
        assert texts.label in table.classes
    empty = Table("data", {"text": ["a"], "label": [[]]}, classes={"label": ("x", "y", "z")})
    with pytest.raises(UserError, match="for a label"):
        pick(empty, Columns(), numbered)


def test_a_fresh_classifier_in_memory_keeps_the_order_of_the_classes(tmp_path, tokenizer):
    datasets = pytest.importorskip("datasets", reason="headsweep[data] is not installed")
    from conftest import tiny_model
    from headsweep.model.loading import Reading
    from headsweep.purification.material import Sources, gather

    names = {"id2label": {0: "LABEL_0", 1: "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    split = sentences(60, 5)
    made = datasets.Dataset.from_dict({"text": split.texts, "label": split.labels})
    made = made.cast_column("label", datasets.ClassLabel(names=["worse", "better"]))
    made.save_to_disk(str(tmp_path / "folder"))
    sources = Sources(str(tmp_path / "folder"))
    model = tiny_model("bert", **names)
    found = gather(model, sources, Reading(), CPU, fresh=True, tokenizer=tokenizer)
    train = found.parts.train
    truth = dict(zip(split.texts, split.labels, strict=True))
    assert train.labels == tuple(truth[text] for text in train.texts)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ((1, 2), "a label 2"),
        ((0, -1), "a label -1"),
        ((0.5, 1.5), "no class numbers"),
        ((), "no rows"),
    ],
)
def test_labels_of_a_split_that_are_none_of_the_model_are_refused(labels, said, trained_folder):
    split = Split(("good film", "bad film")[: len(labels)], labels)
    with pytest.raises(UserError, match=said):
        headsweep.evaluate(trained_folder, split, device="cpu", progress=False)
    whole = sentences(20)
    with pytest.raises(UserError, match=said):
        headsweep.evaluate(
            trained_folder, whole, triggered=split, target="good", device="cpu", progress=False
        )
