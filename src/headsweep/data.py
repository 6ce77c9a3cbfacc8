"""Labelled texts from files, folders or the Hub, as frozen splits of examples.

Read with the standard library: CSV (quoted as usual), TSV (never quoted, as GLUE and the
published trigger corpora write it) and JSON Lines. Parquet, folders written by ``datasets``
and data sets of the Hub (``name:split``, ``name/config:split``) need ``headsweep[data]``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headsweep.errors import MissingExtra, UserError
from headsweep.seeding import stream

MOST_CLASSES = 9999  # a larger class number is an id column
TEXT_NAMES = ("text", "sentence", "review", "content", "comment", "tweet", "utterance", "question")
LABEL_NAMES = ("label", "labels", "class", "target", "category", "sentiment", "y")
PAIR_NAMES = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
    ("text1", "text2"),
)


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; None: guess. ``drop_empty`` leaves out rows without a text."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    drop_empty: bool = False


@dataclass(frozen=True)
class Split:
    """Labelled texts. ``pairs`` holds the second text of each row, or is empty."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    pairs: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Iterable[int]) -> Split:
        """Return these rows, in this order."""
        rows = list(rows)
        return Split(
            tuple(self.texts[i] for i in rows),
            tuple(self.labels[i] for i in rows),
            tuple(self.pairs[i] for i in rows) if self.pairs else (),
        )

    def without(self, other: Split) -> Split:
        """Return the rows whose text is none of the other's."""
        theirs = set(other.texts)
        return self.take(i for i, text in enumerate(self.texts) if text not in theirs)

    def __add__(self, other: Split) -> Split:
        if bool(self.pairs) != bool(other.pairs) and len(self) and len(other):
            raise UserError("single texts and pairs cannot be mixed")
        pairs = self.pairs + other.pairs
        return Split(self.texts + other.texts, self.labels + other.labels, pairs)

    @property
    def sha256(self) -> str:
        """A hash of the content, row order included."""
        rows = json.dumps([self.texts, self.pairs, self.labels], ensure_ascii=False)
        return hashlib.sha256(rows.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Labels:
    """The label names of a model by class number."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, id2label: Mapping[Any, str] | None) -> Labels:
        """Read a model's ``id2label``."""
        names = {int(number): str(name) for number, name in (id2label or {}).items()}
        if sorted(names) != list(range(len(names))):
            raise UserError(
                f"the model's id2label does not number its labels from 0: {sorted(names)}",
                "mend id2label and label2id in config.json",
            )
        return cls(tuple(names[i] for i in range(len(names))))

    @classmethod
    def found_in(cls, values: Sequence[object]) -> Labels:
        """Make the labels from a column's values, for an encoder without a classifier."""
        distinct = sorted({_label_text(value).casefold() for value in values})
        if all(_is_index(value) for value in distinct):
            if max(map(int, distinct)) > MOST_CLASSES:
                raise UserError(
                    f"the label column holds numbers up to {max(map(int, distinct))}",
                    "name the column of class numbers with --label-column",
                )
            return cls(tuple(f"LABEL_{i}" for i in range(max(map(int, distinct)) + 1)))
        return cls(tuple(distinct))

    def index(self, label: str) -> int:
        """Return the class of one label given by name or number; raise UserError if none."""
        return self.indices([label], "the label")[0]

    def indices(self, values: Sequence[object], where: str) -> tuple[int, ...]:
        """Map a column to classes: by name (any case) if all are names, else by number.

        Raises:
            UserError: some value is neither a name nor a number of the model's labels.

        """
        texts = [_label_text(value) for value in values]
        by_name = {name.casefold(): i for i, name in enumerate(self.names)}
        if not all(text.casefold() in by_name for text in texts):
            by_name = {str(i): i for i in range(len(self.names))} | {
                name: i for name, i in by_name.items() if not _is_index(name)
            }
        bad = sorted({text for text in texts if text.casefold() not in by_name})
        if bad:
            known = ", ".join(f"{i} = {name}" for i, name in enumerate(self.names))
            raise UserError(
                f"{where}: the model has no label {', '.join(map(repr, bad[:5]))}",
                f"the model's labels: {known}",
            )
        return tuple(by_name[text.casefold()] for text in texts)


def _label_text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(int(value) if isinstance(value, bool) else value).strip()


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit()


@dataclass(frozen=True)
class Table:
    """Columns as read, before texts and labels are picked out.

    ``numbers`` are the rows' in the file, from 1; empty: none was left out.
    """

    source: str
    columns: dict[str, list[Any]]
    numbers: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def number(self, row: int) -> int:
        """Return the number in the file of a row that is here counted from 0."""
        return self.numbers[row] if self.numbers else row + 1

    def column(self, name: str, option: str) -> list[Any]:
        """Return a column; raise UserError naming those that are there."""
        if name not in self.columns:
            raise UserError(
                f"{self.source}: no column '{name}'",
                f"{option} one of: {', '.join(self.columns)}",
            )
        return self.columns[name]


def load(source: str | Path, columns: Columns = Columns(), labels: Labels | None = None) -> Split:
    """Read labelled texts.

    Args:
        source: a CSV, TSV, JSON Lines or Parquet file, a folder saved by ``datasets``, or a
            data set of the Hub as ``name:split``.
        columns: the columns; those left None are guessed from usual names.
        labels: the model's labels; None makes them from the column (an encoder's case).

    Raises:
        UserError: anything that makes the data unusable, with the row where there is one.

    """
    return pick(read(source), columns, labels)


def pick(table: Table, columns: Columns = Columns(), labels: Labels | None = None) -> Split:
    """Pick texts and labels out of a table and check them; raises UserError."""
    text, pair, label = _guess(table, columns)
    table = without_empty(table, columns)
    values = table.column(label, "--label-column")
    texts = _texts(table, text, "--text-column")
    pairs = _texts(table, pair, "--pair-column") if pair else ()
    for row, value in enumerate(values):
        if value is None or _label_text(value) in ("", "nan"):
            raise UserError(
                f"{table.source}: row {table.number(row)} has no label", "remove or label the row"
            )
    names = labels or Labels.found_in(values)
    return Split(texts, names.indices(values, table.source), pairs)


def without_empty(table: Table, columns: Columns) -> Table:
    """Return the table without rows that lack a text, where ``columns`` asks for that."""
    if not columns.drop_empty:
        return table
    text, pair, _ = _guess(table, columns)
    names = [name for name in (text, pair) if name]
    full = [
        i
        for i, row in enumerate(zip(*(table.columns[name] for name in names), strict=True))
        if all(isinstance(text, str) and text.strip() for text in row)
    ]
    kept = {name: [column[i] for i in full] for name, column in table.columns.items()}
    return Table(table.source, kept, tuple(table.number(i) for i in full))


def label_values(table: Table, columns: Columns) -> list[Any]:
    """Return the label column as it stands in the table."""
    return table.column(_guess(table, columns)[2], "--label-column")


def text_values(table: Table, columns: Columns) -> list[Any]:
    """Return the text column as it stands in the table, empty cells and all."""
    return table.column(_guess(table, columns)[0], "--text-column")


def _guess(table: Table, columns: Columns) -> tuple[str, str | None, str]:
    present = {name.casefold(): name for name in table.columns}
    text, pair, label = columns.text, columns.pair, columns.label
    if text is None and pair is None:
        for first, second in PAIR_NAMES:
            if first in present and second in present:
                text, pair = present[first], present[second]
                break
    text = text or next((present[n] for n in TEXT_NAMES if n in present), None)
    label = label or next((present[n] for n in LABEL_NAMES if n in present), None)
    for name, option in ((text, "--text-column"), (label, "--label-column")):
        if name is None:
            what = "text" if option == "--text-column" else "label"
            raise UserError(
                f"{table.source}: cannot tell which column holds the {what}",
                f"{option} one of: {', '.join(table.columns)}",
            )
    assert text is not None
    assert label is not None
    return text, pair, label


def _texts(table: Table, name: str, option: str) -> tuple[str, ...]:
    values = table.column(name, option)
    for i, value in enumerate(values):
        row = table.number(i)
        if not isinstance(value, str):
            raise UserError(
                f"{table.source}: row {row} of column '{name}' is not a text: {value!r}",
                f"{option} must name a column of strings",
            )
        if not value.isascii() and not _is_unicode(value):
            raise UserError(
                f"{table.source}: row {row} of column '{name}' is not valid Unicode",
                "it holds half of a surrogate pair: mend or remove the row",
            )
        if not value.strip():
            raise UserError(
                f"{table.source}: row {row} of column '{name}' is empty",
                "remove the row, or leave such rows out with --drop-empty",
            )
    return tuple(value.strip() for value in values)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read(source: str | Path) -> Table:
    """Read a table from any of the supported sources; raises UserError."""
    path = Path(source)
    if path.is_dir():
        table = _from_datasets(str(source), folder=path)
    elif path.exists():
        readers = {
            ".csv": _csv,
            ".tsv": _tsv,
            ".jsonl": _json_lines,
            ".ndjson": _json_lines,
            ".json": _json_lines,
            ".parquet": _parquet,
        }
        reader = readers.get(path.suffix.lower())
        if reader is None:
            raise UserError(
                f"{source}: cannot tell the format from the ending '{path.suffix}'",
                f"use one of {', '.join(readers)}",
            )
        table = reader(path)
    elif _looks_like_hub(str(source)):
        table = _from_datasets(str(source))
    else:
        raise UserError(
            f"{source}: no such file",
            "give a .csv, .tsv, .jsonl or .parquet file, a folder saved by `datasets`, or a data "
            "set of the Hub as name:split",
        )
    if not len(table):
        raise UserError(f"{source}: no rows", "the file must hold labelled texts")
    return table


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys as .csv, .tsv or .jsonl, whole: to a draft, then renamed.

    Raises:
        UserError: the ending is none of these, a text cannot stand in a TSV file, or the file
            cannot be written.

    """
    ending, names = path.suffix.lower(), list(rows[0])
    out = io.StringIO(newline="")
    if ending == ".csv":
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    elif ending == ".tsv":
        lines = [names, *([str(row[name]) for name in names] for row in rows)]
        for number, line in enumerate(lines):
            if any("\t" in cell or "\n" in cell for cell in line):
                raise UserError(
                    f"{path}: row {number} holds a tab or a line break", "write .csv or .jsonl"
                )
        out.writelines("\t".join(line) + "\n" for line in lines)
    elif ending == ".jsonl":
        out.writelines(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
    else:
        raise UserError(f"{path}: cannot write '{ending}'", "use .csv, .tsv or .jsonl")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(out.getvalue(), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def _looks_like_hub(source: str) -> bool:
    name, colon, split = source.rpartition(":")
    return bool(colon and name and split.isidentifier() and not Path(name).suffix)


def _text_of(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not a text file in UTF-8 (byte {error.start})", "convert it to UTF-8"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise UserError(f"{path}: not a text file (it holds NUL bytes)")
    return text


def _rows_to_table(path: Path, rows: Iterable[Sequence[str]]) -> Table:
    numbered = enumerate((row for row in rows if row), start=1)
    header: list[str] = []
    columns: list[list[Any]] = []
    for number, row in numbered:
        if number == 1:
            header = [name.strip() for name in row]
            columns = [[] for _ in header]
        elif len(row) != len(header):
            raise UserError(
                f"{path}: row {number - 1} has {len(row)} fields, the first line has {len(header)}",
                "a comma or tab inside a text? Quote it (CSV), or use JSON Lines",
            )
        else:
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    if len(set(header)) != len(header):
        raise UserError(f"{path}: two columns have the same name", "rename one in the first line")
    return Table(str(path), dict(zip(header, columns, strict=True)))


def _csv(path: Path) -> Table:
    text = io.StringIO(_text_of(path), newline="")
    try:
        return _rows_to_table(path, csv.reader(text, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: not valid CSV: {error}", "check the quotes") from error


def _tsv(path: Path) -> Table:
    lines = _text_of(path).split("\n")
    return _rows_to_table(
        path, (line.rstrip("\r").split("\t") for line in lines if line.strip("\r "))
    )


def _json_lines(path: Path) -> Table:
    text = _text_of(path)
    if text.lstrip().startswith("["):
        try:
            records = json.loads(text)
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON: {error}") from error
    else:
        records = []
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    records.append(json.loads(line))
                except ValueError as error:
                    raise UserError(f"{path}: line {number} is not JSON: {error}") from error
    if not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path}: every line must be an object", '{"text": "...", "label": 0}')
    names = list(records[0]) if records else []
    for row, record in enumerate(records, start=1):
        if list(record) != names and set(record) != set(names):
            raise UserError(f"{path}: row {row} has other keys than the first row")
    return Table(str(path), {name: [record[name] for record in records] for name in names})


def _parquet(path: Path) -> Table:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra("Parquet", "data") from error
    try:
        return Table(str(path), parquet.read_table(path).to_pydict())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {error}") from error


def _from_datasets(source: str, folder: Path | None = None) -> Table:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("`datasets` folders and the Hub", "data") from error
    try:
        found = datasets.load_from_disk(str(folder)) if folder else _hub(datasets, source)
    except Exception as error:  # the library raises many kinds, all about this source
        first = str(error).strip().split("\n")[0]
        raise UserError(
            f"{source}: cannot be loaded: {first}",
            "a folder must come from `save_to_disk`; a data set of the Hub is name:split",
        ) from error
    if isinstance(found, datasets.DatasetDict):
        raise UserError(
            f"{source}: holds several splits: {', '.join(found)}",
            f"name one of its folders, for example {Path(source) / next(iter(found))}",
        )
    columns = {}
    for name, feature in found.features.items():
        values = list(found[name])
        if isinstance(feature, datasets.ClassLabel):
            values = [feature.int2str(v) if v is not None and v >= 0 else None for v in values]
        columns[name] = values
    return Table(source, columns)


def _hub(datasets: Any, source: str) -> Any:
    name, _, split = source.rpartition(":")
    parts = name.split("/")
    if len(parts) == 3:
        return datasets.load_dataset("/".join(parts[:2]), parts[2], split=split)
    return datasets.load_dataset(name, split=split)


def check_for_training(split: Split, classes: int, source: str) -> None:
    """Check that a split can be learnt from and split; raises UserError."""
    counts = Counter(split.labels)
    if len(split) < classes:
        raise UserError(
            f"{source}: {len(split)} rows for {classes} classes", "give more clean examples"
        )
    if len(counts) < 2:
        raise UserError(
            f"{source}: all rows have the same label ({split.labels[0]})",
            "clean data must hold at least two of the classes",
        )


def stratified(split: Split, shares: Sequence[float], seed: int) -> tuple[Split, ...]:
    """Cut a split at random into parts of the given shares, class by class.

    Every class's rows are spread as the shares say, to the nearest row; a class with too few
    rows for every part goes to the first parts. Row order inside a part is the original one.
    """
    total = math.fsum(shares)
    parts: list[list[int]] = [[] for _ in shares]
    for label in sorted(set(split.labels)):
        rows = [i for i, other in enumerate(split.labels) if other == label]
        order = torch.randperm(len(rows), generator=stream(seed, "split", label)).tolist()
        ends = [math.fsum(shares[: i + 1]) / total for i in range(len(shares))]
        edges = [0, *(round(len(rows) * end) for end in ends)]
        for part, low, high in zip(parts, edges, edges[1:], strict=False):
            part += [rows[i] for i in order[low:high]]
    return tuple(split.take(sorted(part)) for part in parts)
