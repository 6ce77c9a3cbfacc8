"""Data that Python holds: every form gives the same examples, every wrong one names its argument."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headsweep import Columns, Sources, Split, UserError
from headsweep.texts.memory import given
from headsweep.texts.reading import Table, load
from headsweep.texts.split import Labels

NAMES = Labels(("bad", "good"))
TEXTS, LABELS = ["a fine film", " a dull film", "warm; sweet"], ["good", "bad", "good"]
EXPECTED = Split(tuple(TEXTS), (1, 0, 1))
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]


def read(value, columns=Columns()):  # noqa: B008 - frozen
    return load(given(value, "data"), columns, NAMES)


@pytest.mark.parametrize(
    "value",
    [
        EXPECTED,
        ROWS,
        tuple(ROWS),
        (TEXTS, LABELS),
        (tuple(TEXTS), [1, 0, 1]),
        (np.array(TEXTS), np.array([1, 0, 1])),
        (TEXTS, [1.0, 0.0, 1.0]),
        (TEXTS, [True, False, True]),
    ],
)
def test_every_form_gives_the_same_examples(value):
    assert read(value) == EXPECTED


def test_pairs_are_the_middle_of_three():
    found = read((TEXTS, ["b", "c", "d"], LABELS))
    assert found == Split(tuple(TEXTS), (1, 0, 1), ("b", "c", "d"))


def test_a_data_frame_is_a_table():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"text": TEXTS, "label": LABELS, 7: 0.5})
    assert read(frame) == EXPECTED
    assert read(frame.astype({"label": "category"})) == EXPECTED
    assert read(frame[::-1]) == EXPECTED.take([2, 1, 0])
    assert read(frame.rename(columns={"text": "said"}), Columns(text="said")) == EXPECTED
    frame.loc[1, "text"] = None
    with pytest.raises(UserError, match="data: row 2 of column 'text' is empty"):
        read(frame)
    for none in (pandas.NA, pandas.NaT):
        frame["text"] = [TEXTS[0], none, TEXTS[2]]
        assert read(frame, Columns(drop_empty=True)) == EXPECTED.take([0, 2])
    twice = pandas.concat([frame, frame], axis=1)
    with pytest.raises(UserError, match="data: several columns are called 7, label, text"):
        read(twice)


def test_a_data_set_keeps_the_names_of_its_classes():
    datasets = pytest.importorskip("datasets", reason="headsweep[data] is not installed")
    made = datasets.Dataset.from_dict({"text": TEXTS, "label": [0, 1, 0]})
    made = made.cast_column("label", datasets.ClassLabel(names=["good", "bad"]))
    assert read(made) == EXPECTED
    with pytest.raises(UserError, match=r"several splits: train, test\n.*data\['train'\]"):
        read(datasets.DatasetDict(train=made, test=made))
    with pytest.raises(UserError, match="data cannot be an IterableDataset"):
        read(made.to_iterable_dataset())


WRONG = [
    (None, "data cannot be None"),
    (7, "data cannot be an int"),
    ({"text": TEXTS, "label": LABELS}, "data cannot be a dict"),
    (iter(ROWS), "data cannot be a list_iterator"),
    ([], "data: no rows"),
    (TEXTS, "data cannot be a list of 3"),
    ((TEXTS,), "data cannot be a tuple of 1"),
    (list(zip(TEXTS, LABELS, strict=True)), "data cannot be a list of 3"),
    (("a film", LABELS), "data: its texts are a str, not a list"),
    ((TEXTS, {0, 1}), "data: its labels are a set, not a list"),
    ((TEXTS, LABELS[:2]), "data: its columns differ in length: 3 texts, 2 labels"),
    ([*ROWS, "a film"], "data: row 4 is a str, the first is a dict"),
]


@pytest.mark.parametrize(("value", "said"), WRONG)
def test_what_is_none_of_them_names_the_argument_and_what_it_takes(value, said):
    with pytest.raises(UserError) as caught:
        given(value, "data")
    assert caught.value.what == said
    assert "it takes a file, folder or name:split, a Split, (texts, labels)" in caught.value.fix


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([*ROWS, {"text": "a"}], "test: row 4 has other keys than the first row"),
        (([], []), "test: no rows"),
        (Split(("a",), (0, 1)), "test: the parts of the Split differ in length: 1 texts, 2 labels"),
        (Split(("a",), ("good",)), "test: some label of the Split is no number"),
        (Split((7,), (0,)), "test: some text of the Split is no text"),
    ],
)
def test_what_is_in_a_form_but_does_not_fit_says_where(value, said):
    with pytest.raises(UserError) as caught:
        given(value, "test")
    assert caught.value.what == said


def test_rows_and_labels_are_checked_as_those_of_a_file():
    for value, said in (
        ((["a", 7], [0, 1]), "data: row 2 of column 'text' is not a text: 7"),
        ((["a", "b"], [0, None]), "data: row 2 has no label"),
        ((["a", "b"], ["good", "great"]), "data: the model has no label 'great'"),
        ([{"body": "a", "label": 0}], "data: cannot tell which column holds the text"),
    ):
        with pytest.raises(UserError) as caught:
            read(value)
        assert caught.value.what.startswith(said)


def test_the_argument_of_a_purification_is_named():
    for sources, said in (
        (Sources(7), "data cannot be an int"),
        (Sources(ROWS, 7), "validation cannot be an int"),
        (Sources(ROWS, ROWS, 7), "test cannot be an int"),
    ):
        with pytest.raises(UserError, match=said):
            sources.opened()
    opened = Sources(ROWS, "dev.csv", Path("test.csv")).opened()
    assert isinstance(opened.data, Table)
    assert (opened.validation, opened.test) == ("dev.csv", Path("test.csv"))
    assert Sources(ROWS).opened().validation is None


def test_neither_pandas_nor_datasets_is_imported_to_look():
    program = (
        "import sys\n"
        "from headsweep.texts.memory import given\n"
        "given((['a'], [0]), 'data')\n"
        "print(sorted({'pandas', 'datasets', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, b"[]"), done.stderr
