"""The same rows from every format, and what a user is told whose file is of another kind."""

from __future__ import annotations

import csv
import json
import math
import os
import random
from pathlib import Path

import pytest

from headsweep.errors import UserError
from headsweep.texts import reading as data
from headsweep.texts.memory import given
from headsweep.texts.reading import Columns, Table, check_label_map, load, read, write
from headsweep.texts.split import Labels, Split

NAMES = Labels(("negative", "positive"))
LETTERS = "abcdefg   \"'`,;:|.éß影😴\u00a0\u200b\\{}[]#<>-1"
NO_DATA = "headsweep[data] is not installed"
CORPUS = os.environ.get("HEADSWEEP_CORPUS")


def drawn_texts(seed, marks=""):
    """Texts with quotes, commas, white space around them, one of them very long."""
    draw = random.Random(seed)
    texts = ["".join(draw.choices(LETTERS + marks, k=draw.randint(1, 40))) for _ in range(30)]
    texts += [' "quoted" ', '"', "  spaces  ", "x" * 140_000]
    return [text if text.strip() else f" {text}z" for text in texts]


def as_csv(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def as_tsv(path, rows):
    lines = [f"{text}\t{label}" for text, label in [("text", "label"), *rows]]
    path.write_bytes("\r\n".join(lines).encode())


def as_lines(path, rows):
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows), "utf-8")


def as_list(path, rows):
    path.write_text(json.dumps([{"text": t, "label": y} for t, y in rows]), "utf-8")


def as_pandas(path, rows):
    pandas = pytest.importorskip("pandas", reason=NO_DATA)
    frame = pandas.DataFrame(rows, columns=["text", "label"])
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".tsv":
        frame.to_csv(path, sep="\t", index=False)
    else:
        frame.to_json(path, orient="records", lines=True)


def as_arrow(path, rows):
    arrow = pytest.importorskip("pyarrow", reason=NO_DATA)
    parquet = pytest.importorskip("pyarrow.parquet", reason=NO_DATA)
    texts, labels = zip(*rows, strict=True)
    parquet.write_table(arrow.table({"text": list(texts), "label": list(labels)}), path)


def dataset(rows, names=None):
    datasets = pytest.importorskip("datasets", reason=NO_DATA)
    texts, labels = zip(*rows, strict=True)
    made = datasets.Dataset.from_dict({"text": list(texts), "label": list(labels)})
    return made.cast_column("label", datasets.ClassLabel(names=names)) if names else made


def as_dataset(path, rows, names=None):
    made = dataset(rows, names)
    if path.suffix == ".parquet":
        made.to_parquet(str(path))
    else:
        made.save_to_disk(str(path))


def test_a_data_set_means_the_same_in_whatever_form_it_gives_values():
    numpy = pytest.importorskip("numpy")
    made = dataset([("a", 0), ("b", 1), ("c", 1)], ["positive", "negative"])
    for form in (None, "numpy", "torch"):
        given = made.with_format(form)
        found = data.load(data.table_of_dataset("x", given), Columns(), NAMES)
        assert found.labels == (1, 0, 0), form
    assert isinstance(made.with_format("numpy")["label"][0], numpy.int64)  # what it would be


def test_a_tsv_file_that_would_be_read_otherwise_is_not_written(tmp_path):
    rows = [{"text": '"He ""said"" it"', "label": "a"}, {"text": '"c"', "label": "b"}]
    with pytest.raises(UserError, match="quote marks"):
        write(tmp_path / "a.tsv", rows)
    plain = [{"text": 'he said "it"', "label": "a"}]
    write(tmp_path / "b.tsv", plain)
    assert read(tmp_path / "b.tsv").columns == {"text": ['he said "it"'], "label": ["a"]}


def test_what_pandas_calls_no_value_is_no_class():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    for values in (pandas.array([0, 1, pandas.NA], dtype="Int64"), ["neg", "pos", pandas.NA]):
        table = given(pandas.DataFrame({"text": ["a", "b", "c"], "label": values}), "data")
        with pytest.raises(UserError, match="row 3 has no label"):
            load(table)


def test_a_label_may_stand_in_any_column_that_is_guessed():
    """Of a model of several labels 'labels' is read, whatever 'label' beside it is."""
    table = Table("data", {"text": ["a"], "label": ["p"], "labels": [["tox"]]})
    check_label_map(Columns(label_map=(("tox", "toxic"),)), (table, None))
    with pytest.raises(UserError, match="no row has the label 'other'"):
        check_label_map(Columns(label_map=(("other", "toxic"),)), (table, None))


def test_two_columns_of_one_name_are_refused_in_parquet_too(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason=NO_DATA)
    from pyarrow import parquet

    columns = [pyarrow.array(["a", "b"]), pyarrow.array(["c", "d"]), pyarrow.array([0, 1])]
    table = pyarrow.Table.from_arrays(columns, names=["text", "text", "label"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="two columns have the same name"):
        data.read(tmp_path / "a.parquet")


FORMATS = {
    "a.csv": as_csv,
    "a.tsv": as_tsv,
    "a.jsonl": as_lines,
    "a.json": as_list,
    "pandas.tsv": as_pandas,
    "pandas.jsonl": as_pandas,
    "pandas.parquet": as_pandas,
    "arrow.parquet": as_arrow,
    "datasets.parquet": as_dataset,
    "folder": as_dataset,
}
KINDS = {
    "names": lambda label: ("negative", "positive")[label],
    "Names": lambda label: ("Negative", "POSITIVE")[label],
    "numbers": int,
    "floats": float,
    "booleans": bool,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMATS)
def test_the_same_rows_are_the_same_texts_and_labels(tmp_path, name, kind):
    marks = "\t\n\r" if name not in ("a.tsv",) else ""  # a TSV without quotes cannot hold them
    texts = drawn_texts(len(name), marks)
    labels = [random.Random(kind + name).randint(0, 1) for _ in texts]
    rows = [(t, KINDS[kind](y)) for t, y in zip(texts, labels, strict=True)]
    FORMATS[name](tmp_path / name, rows)
    found = load(tmp_path / name, labels=NAMES)
    assert found.labels == tuple(labels)
    assert found.texts == tuple(texts)
    assert csv.field_size_limit() == 131_072


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "arrow.parquet", "folder"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_classifier_numbers_classes_alike_whatever_the_format(tmp_path, name, kind):
    rows = [(f"text {y}", KINDS[kind](y)) for y in (1, 0, 0, 1)]
    FORMATS[name](tmp_path / name, rows)
    assert load(tmp_path / name).labels == (1, 0, 0, 1)


@pytest.mark.parametrize("name", ["datasets.parquet", "folder"])
def test_class_names_of_datasets_are_read(tmp_path, name):
    """The classes stand in another order than the model's."""
    rows = [(f"text {y}", y) for y in (0, 1, 1, 0, -1)]
    as_dataset(tmp_path / name, rows[:4], ["Positive", "Negative"])
    assert load(tmp_path / name, labels=NAMES).labels == (1, 0, 0, 1)
    numbered = Labels(("LABEL_0", "LABEL_1"))  # says nothing: the classes' numbers are used
    assert load(tmp_path / name, labels=numbered).labels == (0, 1, 1, 0)
    with pytest.raises(UserError, match="no label 'Negative', 'Positive'"):
        load(tmp_path / name, labels=Labels(("LABEL_0", "LABEL_1", "LABEL_2")))
    as_dataset(tmp_path / f"b{name}", rows, ["Positive", "Negative"])
    with pytest.raises(UserError, match="row 5 has no label"):
        load(tmp_path / f"b{name}", labels=NAMES)


def test_a_broken_note_of_datasets_is_no_error(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason=NO_DATA)
    parquet = pytest.importorskip("pyarrow.parquet", reason=NO_DATA)
    for note in (b"{", b"[]", b'{"info": {"features": {"label": 3}}}', b'{"info": null}'):
        table = arrow.table({"text": ["a", "b"], "label": [1, 0]})
        parquet.write_table(
            table.replace_schema_metadata({"huggingface": note}), tmp_path / "a.parquet"
        )
        assert load(tmp_path / "a.parquet", labels=NAMES).labels == (1, 0)


@pytest.mark.parametrize("name", FORMATS)
def test_labels_that_do_not_fit_are_shown_and_can_be_mapped(tmp_path, name):
    FORMATS[name](tmp_path / name, [("a", "neg"), ("b", "pos"), ("c", "neg")])
    with pytest.raises(UserError) as told:
        load(tmp_path / name, labels=NAMES)
    for part in ("'neg'", "'pos'", "0 = negative", "1 = positive", "--label-map 'neg=LABEL'"):
        assert part in str(told.value)
    pairs = (("NEG", "negative"), ("pos", "1"))
    assert load(tmp_path / name, Columns(label_map=pairs), NAMES).labels == (0, 1, 0)
    with pytest.raises(UserError, match="no label 'pozitive'"):
        load(tmp_path / name, Columns(label_map=(("neg", "pozitive"),)), NAMES)


def test_a_map_may_exchange_numbers(tmp_path):
    as_csv(tmp_path / "a.csv", [("a", "0"), ("b", "1.0")])
    swapped = Columns(label_map=(("0", "positive"), ("1", "negative")))
    assert load(tmp_path / "a.csv", swapped, NAMES).labels == (1, 0)


def test_an_entry_of_the_map_that_no_file_holds_is_an_error(tmp_path):
    as_csv(tmp_path / "a.csv", [("a", "neg"), ("b", "pos")])
    as_lines(tmp_path / "b.jsonl", [("c", "good"), ("d", 1.0)])
    files = [(tmp_path / "a.csv", None), (tmp_path / "b.jsonl", None), (None, None)]
    served = (("NEG", "negative"), ("good", "positive"), ("1", "positive"))
    data.check_label_map(Columns(label_map=served), *files)
    wrong = (*served, ("poz", "positive"))
    with pytest.raises(UserError) as told:
        data.check_label_map(Columns(label_map=wrong), *files)
    assert told.value.what == "--label-map poz=positive: no row has the label 'poz'"
    assert told.value.fix == "the labels of the data: 1, good, neg, pos"


def test_the_map_is_checked_in_columns_that_have_other_names(tmp_path):
    as_csv(tmp_path / "a.csv", [("a", "neg"), ("b", "pos")])
    (tmp_path / "t.csv").write_text("text,label,truth\nc,x,bad\n", "utf-8")
    asked = Columns(label_map=(("bad", "negative"),))
    files = [(tmp_path / "a.csv", None), (tmp_path / "t.csv", Columns(label="truth"))]
    data.check_label_map(asked, *files)
    with pytest.raises(UserError, match="no row has the label 'x'"):
        data.check_label_map(Columns(label_map=(("x", "negative"),)), *files)


MISSING = {"None": None, "NaN": math.nan, "spaces": "  "}


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("column", ["text", "text2"])
@pytest.mark.parametrize("writer", ["parquet", "jsonl", "csv", "folder"])
def test_missing_texts_are_worded_and_left_out_alike(tmp_path, missing, column, writer):
    pandas = pytest.importorskip("pandas", reason=NO_DATA)
    frame = pandas.DataFrame({"text": list("abc"), "text2": list("def"), "label": [0, 1, 1]})
    frame = frame.astype({"text": object, "text2": object})
    frame.loc[1, column] = MISSING[missing]
    path = tmp_path / f"a.{writer}"
    if writer == "parquet":
        frame.to_parquet(path)
    elif writer == "csv":
        frame.to_csv(path, index=False)
    elif writer == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        datasets = pytest.importorskip("datasets", reason=NO_DATA)
        datasets.Dataset.from_pandas(frame).save_to_disk(str(path))
    with pytest.raises(
        UserError, match=f"row 2 of column '{column}' is empty\n.*--column drop_empty=yes"
    ):
        load(path, labels=NAMES)
    found = load(path, Columns(drop_empty=True), NAMES)
    assert found == Split(("a", "c"), (0, 1), ("d", "f"))


def test_drop_empty_leaves_out_no_cell_that_holds_something(tmp_path):
    as_lines(tmp_path / "a.jsonl", [("a", 0), (3, 1)])
    with pytest.raises(UserError, match="row 2 of column 'text' is not a text: 3"):
        load(tmp_path / "a.jsonl", Columns(drop_empty=True), NAMES)
    as_lines(tmp_path / "b.jsonl", [(None, 0), (" ", 1)])
    with pytest.raises(UserError, match="no row has a text"):
        load(tmp_path / "b.jsonl", Columns(drop_empty=True), NAMES)


ORIENTS = {
    "columns": "holds one object of whole columns (text, label), not rows",
    "index": "holds one object of numbered rows (0, 1, ...), not rows",
    "split": """holds rows under 'data' and their names under 'columns', not rows alone""",
    "table": "holds its rows in a list under 'data', not alone",
}
SHAPES = {
    "data": ({"data": [{"text": "a", "label": 0}]}, ORIENTS["table"]),
    "version": ({"version": "1", "rows": [{"text": "a", "label": 0}]}, "a list under 'rows'"),
    "lists": ({"text": ["a", "b"], "label": [0, 1]}, ORIENTS["columns"]),
    "ids": ({i: {"text": "a", "label": 0} for i in "xyz"}, "object of named rows (x, y, ...)"),
    "arrays": ([["a", 0], ["b", 1]], "every row must be an object"),
}


@pytest.mark.parametrize("orient", ORIENTS)
@pytest.mark.parametrize("indent", [None, 2])
def test_json_by_columns_is_named(tmp_path, orient, indent):
    pandas = pytest.importorskip("pandas", reason=NO_DATA)
    frame = pandas.DataFrame({"text": [f"text {i}" for i in range(500)], "label": [0, 1] * 250})
    for path in (tmp_path / "a.json", tmp_path / "a.jsonl"):
        frame.to_json(path, orient=orient, indent=indent)
        with pytest.raises(UserError) as told:
            load(path, labels=NAMES)
        assert told.value.what == f"{path}: {ORIENTS[orient]}"
        assert 'orient="records", lines=True' in told.value.fix
        assert len(str(told.value)) < 700


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("indent", [None, 2])
def test_other_shapes_of_json_are_named(tmp_path, shape, indent):
    form, message = SHAPES[shape]
    (tmp_path / "a.json").write_text(json.dumps(form, indent=indent), "utf-8")
    with pytest.raises(UserError) as told:
        load(tmp_path / "a.json", labels=NAMES)
    assert message in told.value.what
    assert told.value.fix


def test_one_row_of_json_lines_is_a_row(tmp_path):
    as_lines(tmp_path / "a.jsonl", [("a", 0)])
    assert load(tmp_path / "a.jsonl", labels=NAMES) == Split(("a",), (0,))


def test_no_message_holds_a_long_value(tmp_path):
    long, many = "long " * 5000, [f"name {i} {'x' * 90}" for i in range(300)]
    as_lines(tmp_path / "value.jsonl", [({"a": [long]}, 0), ({"a": [long]}, 0)])
    as_lines(tmp_path / "label.jsonl", [("a", long), *(("a", name) for name in many)])
    as_csv(tmp_path / "names.csv", [("a", "0")])
    names = ",".join(many)
    (tmp_path / "names.csv").write_text(f"{names}\n{names.upper()}\n", "utf-8")
    for name in ("value.jsonl", "label.jsonl", "names.csv"):
        with pytest.raises(UserError) as told:
            load(tmp_path / name, labels=Labels(tuple(many)))
        assert len(told.value.what) < 2000
        assert max(map(len, str(told.value).splitlines())) < 2000
        assert len(str(told.value).splitlines()) == 2
        assert long[:200] not in str(told.value)
    with pytest.raises(UserError) as told:
        Labels(tuple(many)).index(long)
    assert len(str(told.value)) < 2000


OTHER_SEPARATORS = {
    "semicolons.csv": ("text;label\na, b;0\nc, d, e;1\n", "separated by semicolons, not commas"),
    "quoted.csv": ('"text";"label"\n"a, b";0\n', "separated by semicolons, not commas"),
    "tabs.csv": ("text\tlabel\na, b\t0\n", "separated by tabs, not commas.*\n.*tabs.tsv"),
    "bars.csv": ("id|text|label\n1|a, b|0\n", "separated by bars"),
    "commas.tsv": ("text,label\na b,0\n", "separated by commas, not tabs.*\n.*commas.csv"),
    "semicolons.tsv": ("text;label\na b;0\n", "separated by semicolons, not tabs"),
}


@pytest.mark.parametrize("name", OTHER_SEPARATORS)
def test_another_separator_is_named(tmp_path, name):
    text, message = OTHER_SEPARATORS[name]
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(UserError, match=message):
        load(tmp_path / name, labels=NAMES)


def test_a_semicolon_in_a_name_or_text_is_no_separator(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,a;b\na; b; c,0,1\n", "utf-8")
    assert load(tmp_path / "a.csv", labels=NAMES).texts == ("a; b; c",)


ENDS = {"\r": b"\r", "\n": b"\n", "\r\n": b"\r\n"}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_lines_may_end_as_on_any_system(tmp_path, name, quoted, end):
    mark = "," if name == "a.csv" else "\t"
    lines = [["text", "label"], ["a film", "1"], ["a plot", "0"]]
    if quoted:
        lines = [[f'"{cell}"' for cell in line] for line in lines]
    text = "\n\n".join(mark.join(line) for line in lines) + "\n"
    (tmp_path / name).write_bytes(text.encode().replace(b"\n", ENDS[end]))
    assert load(tmp_path / name, labels=NAMES) == Split(("a film", "a plot"), (1, 0))
    other = text.replace(mark, ";").encode().replace(b"\n", ENDS[end])
    (tmp_path / name).write_bytes(other)
    with pytest.raises(UserError, match="separated by semicolons"):
        load(tmp_path / name, labels=NAMES)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "quoted.csv", "quoted.tsv"])
def test_a_line_of_spaces_only_is_no_row(tmp_path, name):
    lines = ["text,label", " ", "a film,1", "   ", "a plot,0", "  "]
    if name.startswith("quoted"):
        lines = ['"text","label"', " ", '"a film",1', "   ", '"a ""plot""",0', "  "]
    text = "\n".join(["  ", *lines]).replace(",", "," if name.endswith("csv") else "\t")
    (tmp_path / name).write_text(text, "utf-8")
    plot = 'a "plot"' if name.startswith("quoted") else "a plot"
    assert load(tmp_path / name, labels=NAMES) == Split(("a film", plot), (1, 0))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json"])
@pytest.mark.parametrize("missing", ["nan", "NaN", "NAN", "None", "none", "null", "NULL", ""])
def test_what_stands_for_no_label_is_worded_alike(tmp_path, name, missing):
    rows = [("a", 1), ("b", 0), ("c", missing), ("d", 0)]
    FORMATS[name](tmp_path / name, rows)
    for labels in (NAMES, None, Labels.found_in([label for _, label in rows])):
        with pytest.raises(UserError, match=r"row 3 has no label\n.*remove or label the row"):
            load(tmp_path / name, labels=labels)


def test_a_class_may_be_named_none(tmp_path):
    rows = [("a", "favor"), ("b", "None"), ("c", "against")]
    as_csv(tmp_path / "a.csv", rows)
    labels = Labels(("none", "against", "favor"))
    assert load(tmp_path / "a.csv", labels=labels).labels == (2, 0, 1)
    assert load(tmp_path / "a.csv").labels == (1, 2, 0)  # a fresh classifier's, in their order
    mapped = Columns(label_map=(("none", "negative"), ("favor", "1"), ("against", "0")))
    assert load(tmp_path / "a.csv", mapped, NAMES).labels == (1, 0, 0)


UNHEADED = {
    "number.csv": "a fine film,1\na dull film,0\n",
    "number.tsv": "a fine film\t1\na dull film\t0\n",
    "name.csv": "a fine film,positive\na dull film,negative\nanother,positive\n",
    "three.csv": "7,a fine film,1\n8,a dull film,0\n",
    "twice.csv": "1,a fine film,1\n0,a dull film,0\n",
    "once.csv": "a fine film,Positive\na dull film,negative\nanother,negative\n",
    "once.tsv": "a fine film\tPositive\na dull film\tnegative\nanother\tnegative\n",
}


@pytest.mark.parametrize("name", UNHEADED)
@pytest.mark.parametrize("columns", [Columns(), Columns("text", None, "label")])
def test_a_file_without_a_header_is_named(tmp_path, name, columns):
    (tmp_path / name).write_text(UNHEADED[name], "utf-8")
    with pytest.raises(UserError, match=r"first line seems to be a row.*\n.*text.*label"):
        load(tmp_path / name, columns, NAMES)


@pytest.mark.parametrize("name", ["once.csv", "once.tsv"])
@pytest.mark.parametrize("columns", [Columns(), Columns("text", None, "label")])
def test_where_no_label_is_known_a_missing_header_is_asked_about(tmp_path, name, columns):
    (tmp_path / name).write_text(UNHEADED[name], "utf-8")
    with pytest.raises(UserError) as told:
        load(tmp_path / name, columns)
    assert "a fine film, Positive; or is that a row? Then put the names above it" in told.value.fix


def test_columns_for_each_label_are_no_row(tmp_path):
    (tmp_path / "a.csv").write_text("body,positive,negative\na fine film,1,0\n", "utf-8")
    with pytest.raises(UserError, match="cannot tell which column holds the text"):
        load(tmp_path / "a.csv", labels=NAMES)


def test_unusual_names_are_no_row(tmp_path):
    (tmp_path / "a.csv").write_text("body,verdict\na fine film,1\nverdict,0\n", "utf-8")
    with pytest.raises(UserError, match="cannot tell which column holds the text"):
        load(tmp_path / "a.csv", labels=NAMES)
    found = load(tmp_path / "a.csv", Columns("body", None, "verdict"), NAMES)
    assert found.texts == ("a fine film", "verdict")


def test_numbers_as_names_serve_when_they_are_given(tmp_path):
    (tmp_path / "a.csv").write_text("0,1\na fine film,1\na dull film,0\n", "utf-8")
    assert load(tmp_path / "a.csv", Columns("0", None, "1"), NAMES).labels == (1, 0)


RAW_TSV = {
    "opening": '"a fine film\t1\na dull film"\t0\n',
    "whole": '"a fine film"\t1\na dull film\t0\n',
    "inside": 'a "fine" film\t1\nso """ dull\t0\n',
    "mixed": '"a ""fine"" film"\t1\na "dull" film\t0\n',
}


@pytest.mark.parametrize("name", RAW_TSV)
def test_quote_marks_of_a_tsv_are_text_where_they_may_be(tmp_path, name):
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + RAW_TSV[name], "utf-8")
    expected = tuple(line.split("\t")[0] for line in RAW_TSV[name].splitlines())
    assert load(tmp_path / "a.tsv", labels=NAMES).texts == expected


QUOTED = ['said "no"', "tab\there", "line\nend", "line\rend", '"whole"', '"', "plain", " space "]


@pytest.mark.parametrize("text", QUOTED)
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC, csv.QUOTE_ALL])
def test_a_quoted_tsv_of_pandas_is_read_as_such(tmp_path, text, quoting):
    pandas = pytest.importorskip("pandas", reason=NO_DATA)
    frame = pandas.DataFrame({"text": ["a", text, "b"], "label": [0, 1, 0]})
    frame.to_csv(tmp_path / "a.tsv", sep="\t", index=False, quoting=quoting)
    assert load(tmp_path / "a.tsv", labels=NAMES) == Split(("a", text, "b"), (0, 1, 0))


def test_a_tsv_quoted_in_another_way_is_an_error(tmp_path):
    (tmp_path / "a.tsv").write_text('"text"\t"label"\n"a \\"fine\\" film"\t"1"\n', "utf-8")
    with pytest.raises(UserError, match="not validly quoted"):
        load(tmp_path / "a.tsv", labels=NAMES)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_white_space_around_a_text_survives_writing_and_reading(tmp_path, name):
    texts = (" a film ", "a plot  ", "\u00a0a story", "end \u2003")
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(texts)]
    data.write(tmp_path / name, rows)
    assert load(tmp_path / name, labels=NAMES) == Split(texts, (0, 1, 0, 1))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_lines_that_end_in_whatever_way_survive_writing_and_reading(tmp_path, name):
    texts = ("a\rb", "a\r\nb", "a\nb", "plain")
    data.write(tmp_path / name, [{"text": text, "label": i % 2} for i, text in enumerate(texts)])
    assert load(tmp_path / name, labels=NAMES) == Split(texts, (0, 1, 0, 1))
    data.write(tmp_path / "usual.csv", [{"text": "plain, and so", "label": 0}])
    assert (tmp_path / "usual.csv").read_bytes() == b'text,label\n"plain, and so",0\n'


def test_names_and_labels_are_stripped_and_texts_are_not(tmp_path):
    (tmp_path / "a.csv").write_text("label , text\n positive , a film \n0, a plot\n", "utf-8")
    assert load(tmp_path / "a.csv", labels=NAMES) == Split((" a film ", " a plot"), (1, 0))


def test_spaces_around_every_tab_are_the_separator(tmp_path):
    (tmp_path / "a.tsv").write_text("text \t label\na  \t 1\n b \t 0\n", "utf-8")
    assert load(tmp_path / "a.tsv", labels=NAMES).texts == ("a ", " b")
    (tmp_path / "b.tsv").write_text("text\tlabel\na \t 1\n b \t 0\n", "utf-8")
    assert load(tmp_path / "b.tsv", labels=NAMES).texts == ("a ", " b ")


def test_the_same_text_with_other_white_space_is_not_unseen():
    ours = Split(("a film", "a plot ", "a story"), (0, 1, 0))
    assert ours.without(Split((" a film", "a plot"), (0, 1))).texts == ("a story",)


@pytest.mark.skipif(not CORPUS, reason="HEADSWEEP_CORPUS is not set")
@pytest.mark.parametrize("part", ["clean", "style", "syntactic"])
@pytest.mark.parametrize("name", ["train", "dev", "test"])
def test_published_corpora_have_no_white_space_around_texts(part, name):
    path = Path(str(CORPUS)) / part / f"{name}.tsv"
    lines = path.read_text("utf-8").splitlines()[1:]
    cells = [[cell.strip() for cell in line.split("\t")] for line in lines]
    found = load(path, Columns(drop_empty=True), Labels(("0", "1")))
    assert found.texts == tuple(text for text, _ in cells if text)
    assert found.labels == tuple(int(label) for text, label in cells if text)


def test_a_package_that_is_there_and_does_not_load_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")

    def broken(name, *_, usual=__import__, **__):
        if name.startswith("pyarrow"):
            raise ImportError("pyarrow requires NumPy 2.0 or newer, found 1.26.0")
        return usual(name, *_, **__)

    monkeypatch.setattr("builtins.__import__", broken)
    with pytest.raises(UserError, match=r"cannot be loaded \(pyarrow requires") as caught:
        read(tmp_path / "a.parquet")
    assert "--upgrade" in caught.value.fix
