from __future__ import annotations

import json
from collections import Counter

import pytest

from headsweep.errors import UserError
from headsweep.texts.reading import (
    Columns,
    Table,
    check_there,
    label_values,
    load,
    read,
    table_of_dataset,
)
from headsweep.texts.split import Labels, Split, stratified

NAMES = Labels(("negative", "positive"))
ROWS = [("a fine film", "positive"), ("a dull, flat film", "negative"), ('so "good"', "positive")]


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def files(tmp_path):
    csv = 'text,label\na fine film,positive\n"a dull, flat film",negative\n"so ""good""",positive\n'
    tsv = "sentence\tlabel\n" + "".join(f"{t}\t{y}\n" for t, y in ROWS)
    lines = "".join(json.dumps({"review": t, "sentiment": y}) + "\n" for t, y in ROWS)
    yield write(tmp_path, "a.csv", csv)
    yield write(tmp_path, "a.tsv", tsv)
    yield write(tmp_path, "a.jsonl", lines)
    yield write(tmp_path, "a.json", json.dumps([{"text": t, "label": y} for t, y in ROWS]))


def test_all_text_formats_give_the_same_split(tmp_path):
    expected = Split(tuple(t for t, _ in ROWS), (1, 0, 1))
    found = [load(path, labels=NAMES) for path in files(tmp_path)]
    assert found == [expected] * 4


def test_parquet_and_datasets_folder_and_features(tmp_path):
    datasets = pytest.importorskip("datasets", reason="headsweep[data] is not installed")
    made = datasets.Dataset.from_dict({"text": [t for t, _ in ROWS], "label": [1, 0, 1]})
    made = made.cast_column("label", datasets.ClassLabel(names=["Negative", "Positive"]))
    made.save_to_disk(str(tmp_path / "folder"))
    made.to_parquet(str(tmp_path / "a.parquet"))
    expected = Split(tuple(t for t, _ in ROWS), (1, 0, 1))
    assert load(tmp_path / "folder", labels=NAMES) == expected
    assert load(tmp_path / "a.parquet", labels=NAMES) == expected
    (tmp_path / "b.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="not a readable Parquet"):
        load(tmp_path / "b.parquet", labels=NAMES)


def test_a_hub_name_is_asked_for_by_split(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="headsweep[data] is not installed")
    asked = []

    def fake(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})

    monkeypatch.setattr(datasets, "load_dataset", fake)
    assert load("org/reviews:train", labels=NAMES).labels == (0, 1)
    assert load("org/reviews/config:test", labels=NAMES).texts == ("a", "b")
    assert asked[0] == (("org/reviews",), {"split": "train"})
    assert asked[1] == (("org/reviews", "config"), {"split": "test"})


def test_published_trigger_files_have_spaces_around_the_tab(tmp_path):
    path = write(tmp_path, "s.tsv", 'sentence \t label\nan "odd one . \t 0\nfine . \t 1\n')
    assert load(path, labels=NAMES) == Split(('an "odd one .', "fine ."), (0, 1))


def test_sentence_pairs_are_guessed_and_named(tmp_path):
    path = write(tmp_path, "p.csv", "premise,hypothesis,label\na,b,0\nc,d,1\n")
    assert load(path, labels=NAMES) == Split(("a", "c"), (0, 1), ("b", "d"))
    named = load(path, Columns(text="hypothesis", pair="premise"), NAMES)
    assert named.texts == ("b", "d")
    assert named.pairs == ("a", "c")


def test_labels_by_name_in_any_case_by_number_and_mixed():
    assert NAMES.indices(["Positive", "NEGATIVE"], "x") == (1, 0)
    assert NAMES.indices([1, 0.0, "1"], "x") == (1, 0, 1)
    assert NAMES.indices(["1", "negative"], "x") == (1, 0)
    assert NAMES.indices(["1.0", "0", True, "False"], "x") == (1, 0, 1, 0)
    assert Labels(("True", "False")).indices([True, "false"], "x") == (0, 1)  # names win
    assert Labels(("true", "unsure")).indices([True, 1], "x") == (0, 1)
    with pytest.raises(UserError, match="no label 'False'"):
        Labels(("true", "unsure")).indices([True, False], "x")
    stars = Labels(("1", "2", "3"))
    assert stars.indices([1.0, "3.0"], "x") == (0, 2)
    assert stars.indices(["1", "3"], "x") == (0, 2)  # names win over numbers
    with pytest.raises(UserError, match=r"no label 'neutral'.*\n.*0 = negative"):
        NAMES.indices(["positive", "neutral"], "x")
    with pytest.raises(UserError, match="no label '2'"):
        NAMES.indices([0, 1, 2], "x")


OTHERWISE = [("1", "2", "3"), ("1", "0"), ("-1", "0", "1"), ("01", "02"), ("0", "2"), ("x", "0")]


@pytest.mark.parametrize("names", OTHERWISE)
def test_a_label_means_one_class_whatever_stands_beside_it(names):
    """Where names are other numbers than the classes', only names count, in any file."""
    labels = Labels(names)
    values = [*names, *(str(i) for i in range(4))]
    for value in values:
        if value in names:
            assert labels.index(value) == names.index(value)
            assert labels.indices([value], "x") == (names.index(value),)
            assert labels.indices([value, *names], "x")[0] == names.index(value)
            continue
        for column in ([value], [value, *names], values):
            with pytest.raises(UserError, match="its labels are numbers themselves") as told:
                labels.indices(column, "x")
            pairs = [f"--label-map '{text}=LABEL'" for text in sorted(set(column))[:3]]
            assert all(pair in told.value.fix for pair in pairs)  # all may mean another class
        with pytest.raises(UserError, match="no label"):
            labels.index(value)


def test_names_that_are_the_classes_own_numbers_take_numbers_too():
    assert Labels(("0", "1", "other")).indices(["2", "1", "other"], "x") == (2, 1, 2)


def test_a_map_settles_what_numbers_mean(tmp_path):
    path = write(tmp_path, "m.csv", "text,label\na,0\nb,1\nc,2\n")
    pairs = Columns(label_map=(("0", "1"), ("1", "2"), ("2", "3")))
    assert load(path, pairs, Labels(("1", "2", "3"))).labels == (0, 1, 2)


def test_labels_made_from_a_column():
    assert Labels.found_in(["pos", "neg", "pos"]).names == ("neg", "pos")
    assert Labels.found_in(["Yes", "yes", "no"]).names == ("no", "yes")
    assert Labels.found_in([True]).names == Labels.found_in(["TRUE"]).names == ("false", "true")
    assert Labels.found_in(["1.0", 0]).names == ("LABEL_0", "LABEL_1")
    with pytest.raises(UserError, match="numbers up to 70000"):
        Labels.found_in([1, 70000])
    with pytest.raises(UserError, match="does not number its labels from 0"):
        Labels.of({1: "a", 2: "b"})
    assert Labels.found_in([0, 2]).names == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_labels_that_differ_in_case_alone_stay_apart():
    assert Labels(("a", "A", "b")).indices(["a", "A", "B", "a"], "x") == (0, 1, 2, 0)
    assert Labels(("a", "A")).index("A") == 1
    with pytest.raises(UserError, match="the model has no label 'aA'"):
        Labels(("aa", "AA")).indices(["aA"], "x")


def test_drop_empty_leaves_out_and_says_nothing_otherwise(tmp_path):
    path = write(tmp_path, "e.tsv", "text\tlabel\na\t0\n \t1\nb\t1\n")
    with pytest.raises(UserError, match="row 2 of column 'text' is empty"):
        load(path, labels=NAMES)
    assert load(path, Columns(drop_empty=True), NAMES) == Split(("a", "b"), (0, 1))


BAD = {
    "empty.csv": ("", "no rows"),
    "header.csv": ("text,label\n", "no rows"),
    "column.csv": ("lines,label\na,0\n", "cannot tell which column holds the text"),
    "ragged.csv": ("text,label\na,0\nb\n", "row 2 has 1 fields"),
    "quote.csv": ('text,label\n"a,0\n', "not valid CSV"),
    "twice.csv": ("text,text,label\na,b,0\n", "same name"),
    "broken.jsonl": ('{"text": "a", "label": 0}\n{"text"', "line 2 is not JSON"),
    "list.jsonl": ("[1]\n", "every row must be an object"),
    "keys.jsonl": ('{"text": "a", "label": 0}\n{"text": "b"}\n', "row 2 has other keys"),
    "number.jsonl": ('{"text": 3, "label": 0}\n', "row 1 of column 'text' is not a text: 3"),
    "surrogate.jsonl": ('{"text": "a \\ud800", "label": 0}\n', "not valid Unicode"),
    "unlabelled.jsonl": ('{"text": "a", "label": null}\n', "row 1 has no label"),
    "ending.xyz": ("text\n", "cannot tell the format"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_clear_error(tmp_path, name):
    text, message = BAD[name]
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, name, text), labels=NAMES)


def test_binary_and_missing_files(tmp_path):
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match="not a text file"):
        load(tmp_path / "b.csv")
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "none.csv")
    with pytest.raises(UserError, match="no column 'body'"):
        load(write(tmp_path, "c.csv", "text,label\na,0\n"), Columns(text="body"))


@pytest.mark.parametrize("cell", [["x", "y"], {"a": 1}])
def test_a_list_is_no_class(tmp_path, cell):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "one", "label": "x"}, {"text": "two", "label": cell}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(UserError, match=r"row 2 has .* for a label"):
        load(path)


def test_stratified_parts_are_disjoint_seeded_and_proportional():
    split = Split(tuple(f"t{i}" for i in range(100)), tuple(int(i < 30) for i in range(100)))
    parts = stratified(split, (0.7, 0.15, 0.15), seed=1)
    assert [len(part) for part in parts] in ([70, 15, 15], [69, 16, 15], [70, 14, 16], [70, 16, 14])
    assert sorted(t for part in parts for t in part.texts) == sorted(split.texts)
    assert [sum(part.labels) for part in parts] in ([21, 5, 4], [21, 4, 5])
    assert stratified(split, (0.7, 0.15, 0.15), seed=1) == parts
    assert stratified(split, (0.7, 0.15, 0.15), seed=2) != parts


@pytest.mark.parametrize(("classes", "each"), [(77, 4), (77, 3), (20, 5), (6, 10), (150, 2)])
def test_many_small_classes_are_cut_as_the_shares_say(classes, each):
    """Rounded class by class, 77 classes of four rows would give validation none at all."""
    total = classes * each
    split = Split(tuple(f"t{i}" for i in range(total)), tuple(i % classes for i in range(total)))
    parts = stratified(split, (0.7, 0.15, 0.15), seed=1)
    for part, share in zip(parts, (0.7, 0.15, 0.15), strict=True):
        assert abs(len(part) - share * total) <= 0.05 * total
    assert sorted(t for part in parts for t in part.texts) == sorted(split.texts)
    assert set(parts[0].labels) == set(range(classes))
    assert max(Counter(parts[1].labels).values()) <= 2


def test_hash_depends_on_every_part():
    split = Split(("a", "b"), (0, 1))
    others = [Split(("b", "a"), (0, 1)), Split(("a", "b"), (1, 0)), Split(("ab", ""), (0, 1))]
    assert len({s.sha256 for s in [split, *others]}) == 4


def test_numbers_of_which_a_map_says_what_some_mean_are_not_guessed():
    labels = Labels(("negative", "neutral", "positive"))
    rows = {"text": ["a", "b", "c"], "label": [-1, 0, 1]}
    with pytest.raises(UserError, match="--label-map '0=LABEL' --label-map '1=LABEL'"):
        load(Table("polar", rows), labels=labels)
    some = Columns(label_map=(("-1", "negative"),))
    with pytest.raises(UserError, match="not what 0, 1 means"):
        load(Table("polar", rows), some, labels)
    whole = Columns(label_map=(("-1", "negative"), ("0", "neutral"), ("1", "positive")))
    assert load(Table("polar", rows), whole, labels).labels == (0, 1, 2)
    mixed = {"text": ["a", "b"], "label": ["bad", "1"]}
    named = Columns(label_map=(("bad", "negative"),))  # says nothing of numbers
    assert load(Table("mixed", mixed), named, labels).labels == (0, 1)


def test_stars_are_no_class_numbers_unless_a_zero_shows_that_they_are():
    stars = Labels(tuple(f"{i} star{'s' * (i > 1)}" for i in range(1, 6)))
    with pytest.raises(UserError, match="begin with other numbers"):
        load(Table("stars", {"text": ["a", "b"], "label": [1, 4]}), labels=stars)
    assert load(Table("x", {"text": ["a", "b"], "label": [0, 4]}), labels=stars).labels == (0, 4)
    named = {"text": ["a", "b"], "label": ["1 star", "4 Stars"]}
    assert load(Table("x", named), labels=stars).labels == (0, 3)
    own = Labels(("0 none", "1 some"))  # as its classes are numbered
    assert load(Table("x", {"text": ["a"], "label": [1]}), labels=own).labels == (1,)


def test_names_of_classes_that_are_other_numbers_mean_no_class_of_the_model():
    table = Table("x", {"text": ["a", "b"], "label": ["1", "2"]}, classes={"label": ("1", "2")})
    with pytest.raises(UserError, match="are called 1, 2, which is no label"):
        load(table, labels=NAMES)
    assert load(table, labels=Labels(("LABEL_0", "LABEL_1"))).labels == (0, 1)
    mapped = Columns(label_map=(("1", "negative"), ("2", "positive")))
    assert load(table, mapped, NAMES).labels == (0, 1)


@pytest.mark.parametrize(
    "pair",
    [("text", "text_pair"), ("question", "answer"), ("query", "text"), ("claim", "evidence")],
)
def test_usual_pairs_are_read_as_pairs(pair):
    rows = {pair[0]: ["a", "b"], pair[1]: ["c", "d"], "label": [0, 1]}
    assert load(Table("x", rows), labels=NAMES).rows == [("a", "c"), ("b", "d")]


@pytest.mark.parametrize(
    "name",
    ["who/Open-2.5:train", "allen/c4/en.clean:train", "who/imdb:train[:500]", "a/b:validation.en"],
)
def test_names_and_splits_of_the_hub_may_hold_dots_and_slices(name):
    check_there(name)


@pytest.mark.parametrize("name", ["clean.csv:train", "x.parquet:train", "a b", "n:1 2"])
def test_what_is_no_file_and_no_name_of_the_hub_is_told(name):
    with pytest.raises(UserError, match="no such file"):
        check_there(name)


def test_a_text_in_the_place_of_a_file_is_told_in_a_line():
    with pytest.raises(UserError, match="no such file") as caught:
        load("text,label\n" * 500, labels=NAMES)
    assert len(caught.value.what) < 300


def test_rows_that_are_left_out_name_no_class():
    table = Table("x", {"text": ["a", "", "b", None], "label": ["pos", "", "neg", "7"]})
    assert label_values(table, Columns(drop_empty=True)) == ["pos", "neg"]


def test_rows_with_the_same_text_are_in_one_part():
    texts = tuple(f"text {i % 60}" for i in range(120))
    split = Split(texts, tuple(i % 2 for i in range(120)))
    parts = stratified(split, (0.7, 0.15, 0.15), seed=3)
    assert all(abs(len(part) - n) <= 4 for part, n in zip(parts, (84, 18, 18), strict=True))
    assert not {*parts[0].texts} & {*parts[1].texts}
    assert not ({*parts[0].texts} | {*parts[1].texts}) & {*parts[2].texts}
    assert sorted(text for part in parts for text in part.texts) == sorted(texts)


def test_a_text_that_is_most_of_a_class_is_spread_over_the_parts():
    split = Split(
        tuple(f"text {i}" for i in range(200)) + ("one text",) * 100, (0,) * 200 + (1,) * 100
    )
    parts = stratified(split, (0.7, 0.15, 0.15), seed=3)
    assert [Counter(part.labels) for part in parts] == [
        {0: 140, 1: 70}, {0: 30, 1: 15}, {0: 30, 1: 15}
    ]  # fmt: skip


def test_what_only_looks_like_a_pair_is_none():
    rows = {"question": ["is it", "so"], "answer": ["yes", "no"]}
    named = Columns(label="answer", label_map=(("yes", "positive"), ("no", "negative")))
    assert load(Table("x", rows), named, NAMES).pairs == ()  # its label is no text to read
    for second in (["", ""], ["a", None], [3, 4], [["a"], ["b"]]):
        table = Table("x", {"text": ["a", "b"], "text_pair": second, "label": [0, 1]})
        assert load(table, labels=NAMES).rows == [("a",), ("b",)]


def test_labels_that_begin_with_a_number_by_chance_are_no_stars():
    labels = Labels(("billing", "24/7 support", "other"))
    assert load(Table("x", {"text": ["a", "b"], "label": [1, 2]}), labels=labels).labels == (1, 2)


def test_names_of_classes_that_no_row_has_do_not_matter():
    table = Table("x", {"text": ["a"], "label": ["10"]}, classes={"label": ("10", "20", "30")})
    assert load(table, labels=Labels(("10", "20"))).labels == (0,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("text,label,,\na,b,,\n", None),
        ("sep=,\ntext,label\na,b\n", None),
        ("text,label,text\na,b,c\n", "two columns have the same name, 'text'"),
        ("text,,,label\na,b,c,d\n", "two columns have no name"),
        ('text,label\na,b\n"c"d,e\n', "not valid CSV: line 3"),
    ],
)
def test_what_excel_adds_to_a_csv_file_is_left_out(tmp_path, text, said):
    path = write(tmp_path, "a.csv", text)
    if said is None:
        assert read(path).columns == {"text": ["a"], "label": ["b"]}
    else:
        with pytest.raises(UserError, match=said):
            read(path)


def test_columns_of_sound_and_pictures_are_not_opened():
    datasets = pytest.importorskip("datasets", reason="headsweep[data] is not installed")
    made = datasets.Dataset.from_dict(
        {"text": ["a", "b"], "label": [0, 1], "picture": [{"path": None, "bytes": b"none"}] * 2},
        features=datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.Value("int64"),
             "picture": datasets.Image()}
        ),
    )  # fmt: skip
    assert table_of_dataset("x", made).columns == {"text": ["a", "b"], "label": [0, 1]}
