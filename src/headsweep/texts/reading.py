"""Labelled texts from files, folders or the Hub, as frozen splits of examples.

Read with the standard library: CSV (quoted as usual), TSV (as ``formats`` says when it is
quoted) and JSON Lines. Parquet, folders written by ``datasets`` and data sets of the Hub
(``name:split``, ``name/config:split``) need ``headsweep[data]``. The same rows give the same texts
and labels from any of them. Texts stay as they are, white space around them included: a trigger
may be white space.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headsweep.drafts import placed, write_bytes
from headsweep.errors import MissingExtra, UserError, shortened, shown, shown_all
from headsweep.settings import checked, hidden
from headsweep.texts import formats
from headsweep.texts.objects import from_json
from headsweep.texts.split import NUMBER, Labels, Split, label_text

READERS: dict[str, Callable[[Path], formats.Cells]] = {
    ".csv": formats.from_csv,
    ".tsv": formats.from_tsv,
    ".jsonl": from_json,
    ".ndjson": from_json,
    ".json": from_json,
    ".conll": formats.from_conll,
}
"""Readers of text files by ending."""
LONGEST_TEXT = 1 << 20
OF_THE_HUB = re.compile(r"([^:]+):(\w+(?:\.\w+)*(?:\[[^\]]*\])?)")  # a split: train[:500]
TEXT_NAMES = ("text", "sentence", "review", "content", "comment", "tweet", "utterance", "question",
              "tokens", "words")  # fmt: skip
LABEL_NAMES = ("label", "labels", "class", "target", "category", "sentiment", "y", "tags",
               "ner_tags")  # fmt: skip
MORE_LABEL_NAMES = ("classes", "categories", "pos_tags")  # of several labels, and of tags
BETWEEN = "|"  # two labels of a text in one cell of a CSV file
PAIR_NAMES = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
    ("query", "passage"),
    ("query", "document"),
    ("sentence_a", "sentence_b"),
    ("text1", "text2"),
    ("text", "text2"),  # as `headsweep trigger` writes pairs
)
MAYBE_PAIRS = (  # where every row has a second text
    ("query", "text"),
    ("question", "answer"),
    ("claim", "evidence"),
    ("text", "text_pair"),  # as tokenizers call them
)


@dataclass(frozen=True)
@checked
class Columns:
    """Which columns hold what; None: guess.

    ``drop_empty`` leaves out rows without a text; ``label_map`` pairs labels of the data with
    labels of the model. ``prefix`` is what the options that name the columns begin with.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    drop_empty: bool = False
    label_map: tuple[tuple[str, str], ...] = ()
    prefix: str = hidden("")

    def option(self, kind: str) -> str:
        """Return the option that names the column of the ``text``, ``pair`` or ``label``."""
        return f"--{self.prefix}column {kind}=NAME"

    def own(self, names: Columns, table: Table) -> Columns:
        """Return the columns of another file: named for it, or as here where it has them."""

        def there(name: str | None) -> str | None:
            return name if name in table.columns else None

        return replace(
            self,
            text=names.text or there(self.text),
            pair=names.pair or there(self.pair),
            label=names.label or there(self.label),
            prefix=names.prefix,
        )


@dataclass(frozen=True)
class Table:
    """Columns as read, before texts and labels are picked out.

    ``numbers`` are the rows' in the file, from 1; empty: none was left out. ``classes`` are the
    names of the classes in their order, by column, where the source holds them. ``unnamed``: they
    came as a tuple, without names.
    """

    source: str
    columns: dict[str, list[Any]]
    numbers: tuple[int, ...] = ()
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unnamed: bool = False

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def number(self, row: int) -> int:
        """Return the number in the file of a row that is here counted from 0."""
        return self.numbers[row] if self.numbers else row + 1

    def cell(self, name: str, row: int) -> str:
        """Return in words where a cell stands."""
        return f"{self.source}: row {self.number(row)} of column '{shortened(name)}'"

    def column(self, name: str, option: str) -> list[Any]:
        """Return a column; raise UserError naming those that are there."""
        if name not in self.columns:
            self.check_header()
            raise UserError(f"{self.source}: no column '{name}'", f"{option}, one of: {self.names}")
        return self.columns[name]

    @property
    def names(self) -> str:
        """The columns' names in words; they may be the first row of a file without a header."""
        delimited = Path(self.source).suffix.lower() in formats.DELIMITED
        doubt = "; or is that a row? Then put the names above it" if delimited else ""
        return shown_all(list(self.columns)) + doubt

    def check_header(self, labels: Labels | None = None) -> None:
        """Say so where the first line of the file holds no names; raises UserError."""
        known = labels.names if labels else ()
        formats.check_header(self.source, list(self.columns), list(self.columns.values()), known)


Source = Split | Table | str | Path
"""Where labelled texts come from: they are there, or in columns, or in a file."""


def load(
    source: Source,
    columns: Columns = Columns(),
    labels: Labels | None = None,
    names: Columns | None = None,
) -> Split:
    """Read labelled texts.

    Args:
        source: a CSV, TSV, JSON Lines or Parquet file, a folder saved by ``datasets``, or a
            data set of the Hub as ``name:split``; a table in memory; a Split, which stays as it
            is.
        columns: the columns; those left None are guessed from usual names.
        labels: the model's labels; None makes them from the column (an encoder's case).
        names: the columns of this file, where ``columns`` are another's and hold here only as
            far as the file has them.

    Raises:
        UserError: anything that makes the data unusable, with the row where there is one.

    """
    if isinstance(source, Split):
        return source
    table = read(source)
    return pick(table, columns if names is None else columns.own(names, table), labels)


def pick(table: Table, columns: Columns = Columns(), labels: Labels | None = None) -> Split:
    """Pick texts and labels out of a table and check them; raises UserError."""
    columns = settled(table, columns, labels)
    table = without_empty(table, columns)
    texts, pairs = texts_of(table, columns)
    values = class_values(table, columns, labels)
    known = labels or Labels.found_in(values)
    for row, value in enumerate(values):
        if value is None or label_text(value).casefold() in known.missing:
            raise UserError(
                f"{table.source}: row {table.number(row)} has no label", "remove or label the row"
            )
    return Split(texts, known.indices(values, table.source, columns.option("label")), pairs)


def settled(
    table: Table,
    columns: Columns,
    labels: Labels | None = None,
    names: Sequence[str] = LABEL_NAMES,
) -> Columns:
    """Return the columns with those that were left to be guessed; raises UserError.

    ``names``: how a column of labels is usually called, the likeliest first.
    """
    text, pair, label = _guess(table, columns, labels, names)
    return replace(columns, text=text, pair=pair, label=label)


def without_pair(columns: Columns, what: str) -> None:
    """Refuse a column of second texts where there are none; raises UserError."""
    if columns.pair is not None:
        raise UserError(
            f"{columns.option('pair')}: this model takes {what}, no second text", "leave it out"
        )


def texts_of(table: Table, columns: Columns) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return texts and second texts by settled columns, all of them there; raises UserError."""
    assert columns.text is not None
    texts = _texts(table, columns.text, columns.option("text"))
    pair = columns.pair
    return texts, _texts(table, pair, columns.option("pair")) if pair else ()


def without_empty(table: Table, columns: Columns) -> Table:
    """Return the table without rows that lack a text, where ``columns`` asks for that."""
    if not columns.drop_empty:
        return table
    text, pair, _ = _guess(table, columns)
    cells = [table.column(text, columns.option("text"))]
    cells += [table.column(pair, columns.option("pair"))] if pair else []
    full = [i for i, row in enumerate(zip(*cells, strict=True)) if not any(map(is_missing, row))]
    if not full:
        raise UserError(
            f"{table.source}: no row has a text", f"name its column with {columns.option('text')}"
        )
    kept = {name: [column[i] for i in full] for name, column in table.columns.items()}
    return replace(table, columns=kept, numbers=tuple(table.number(i) for i in full))


def class_values(table: Table, columns: Columns, labels: Labels | None = None) -> list[Any]:
    """Return the label column as ``label_values`` does; raises UserError for several in a row."""
    values = [_or_nan(value) for value in label_values(table, columns, labels)]
    for row, value in enumerate(values):
        if _is_several(value):
            raise UserError(
                f"{table.source}: row {table.number(row)} has {shown(value)} for a label",
                "a class is one name or number; several labels a row, and tags, are for a model "
                "that gives them (docs/kinds.md)",
            )
    return values


def label_values(table: Table, columns: Columns, labels: Labels | None = None) -> list[Any]:
    """Return the label column, mapped where ``columns`` says how.

    Where the source holds the order of its classes and the model, with as many, has numbers for
    names, values are the classes' numbers.
    """
    table = without_empty(table, columns)
    name = _guess(table, columns)[2]
    values = table.column(name, columns.option("label"))
    return in_order(values, table, replace(columns, label=name), labels)


def in_order(
    values: Sequence[Any], table: Table, columns: Columns, labels: Labels | None
) -> list[Any]:
    """Return values of the column of labels as ``label_values`` does."""
    if columns.label_map:
        return mapped(values, columns.label_map, labels)
    order = table.classes.get(columns.label or "", ())
    if labels is not None and not labels.numbered:
        there = [name for name in order if name in {*map(str, values)}]
        _check_names(order, there, labels, f"{table.source}: the classes of {columns.label}")
    if labels is None or not labels.numbered or len(order) != len(labels.names):
        return list(values)
    numbers = {value: i for i, value in enumerate(order)}
    return [x if _is_several(x) else numbers.get(x, x) for x in values]


def _is_several(value: Any) -> bool:
    """Tell whether a cell holds several values: a list, a table, a set, an array."""
    one = isinstance(value, str | bytes) or getattr(value, "shape", None) == ()
    return not one and hasattr(value, "__iter__")


def mapped(
    values: Sequence[Any], pairs: Sequence[tuple[str, str]], labels: Labels | None
) -> list[Any]:
    """Return labels with those of the data in the place of which a map has the model's."""
    for old, new in pairs if labels else ():
        assert labels is not None
        labels.index(new, f"--label-map {old}={new}")
    known = {label_text(old).casefold(): new for old, new in pairs}
    names = {label_text(name).casefold() for name in labels.names} if labels else set()
    left = sorted({label_text(value).casefold() for value in values} - {*known} - names)
    numbers = [text for text in left if NUMBER.fullmatch(text)]
    if numbers and labels and any(map(NUMBER.fullmatch, known)):
        raise UserError(
            f"--label-map says what some numbers of the data mean, and not what "
            f"{shown_all(numbers)} means",
            f"the model's labels: {labels}; give --label-map for every number",
        )
    return [known.get(label_text(value).casefold(), value) for value in values]


def _check_names(order: Sequence[str], there: Sequence[str], labels: Labels, what: str) -> None:
    """Refuse names of classes that are other numbers than the classes': they mean no class."""
    numbers = [name for i, name in enumerate(order) if NUMBER.fullmatch(name) and name != str(i)]
    if numbers and not {*there} <= {*labels.names}:
        pairs = " ".join(f"--label-map '{shortened(name)}=LABEL'" for name in order[:3])
        raise UserError(
            f"{what} are called {shown_all(order)}, which is no label of the model",
            f"the model's labels: {labels}; say which is which: {pairs}",
        )


def check_label_map(columns: Columns, *files: tuple[Source | None, Columns | None]) -> None:
    """Refuse an entry of the map whose label stands in none of a run's files; raises UserError.

    Every file comes with the names of its own columns, as ``load`` takes them.
    """
    cells = (cell for file in files for cell in _raw_labels(columns, *file))
    there = {
        label_text(value)
        for cell in cells
        for value in (as_list(cell) or [cell])  # several labels a text
    }
    folded = {text.casefold() for text in there}
    folded |= {part.strip() for text in folded for part in text.split(BETWEEN)}
    for old, new in columns.label_map if there else ():
        if label_text(old).casefold() not in folded:
            raise UserError(
                f"--label-map {old}={new}: no row has the label {shown(old)}",
                f"the labels of the data: {shown_all(sorted(there))}",
            )


def _raw_labels(columns: Columns, source: Source | None, names: Columns | None) -> list[Any]:
    if source is None or isinstance(source, Split) or not columns.label_map:
        return []
    table = read(source)
    theirs = columns if names is None else columns.own(names, table)
    present = {name.casefold(): name for name in table.columns}
    guessed = [present[name] for name in (*LABEL_NAMES, *MORE_LABEL_NAMES) if name in present]
    found = [theirs.label] if theirs.label else guessed  # of which the task takes one
    option = columns.option("label")
    return [x for label in found if label in table.columns for x in table.column(label, option)]


def text_values(table: Table, columns: Columns) -> list[str]:
    """Return the text column as it stands in the table, empty cells as empty texts."""
    name = _guess(table, columns)[0]
    option = columns.option("text")
    values = table.column(name, option)
    return [text_cell(table, name, option, i, v) for i, v in enumerate(values)]


def _guess(
    table: Table,
    columns: Columns,
    labels: Labels | None = None,
    names: Sequence[str] = LABEL_NAMES,
) -> tuple[str, str | None, str]:
    present = {name.casefold(): name for name in table.columns}
    text, pair, label = columns.text, columns.pair, columns.label
    if text is None and pair is None:
        for first, second in (*PAIR_NAMES, *MAYBE_PAIRS):
            both = present.get(first), present.get(second)
            if None in both or label in both:
                continue
            if (first, second) in PAIR_NAMES or _holds_texts(table.columns[both[1] or ""]):
                text, pair = both
                break
    text = text or next((present[n] for n in TEXT_NAMES if n in present), None)
    label = label or next((present[n] for n in names if n in present), None)
    for what, name in (("text", text), ("label", label)):
        if name not in table.columns:
            table.check_header(labels)
        if name is None:
            raise UserError(
                f"{table.source}: cannot tell which column holds the {what}",
                f"{columns.option(what)}, one of: {table.names}",
            )
    assert text is not None
    assert label is not None
    return text, pair, label


def _holds_texts(cells: Sequence[Any]) -> bool:
    return all(isinstance(cell, str) and not is_missing(cell) for cell in cells)


def _texts(table: Table, name: str, option: str) -> tuple[str, ...]:
    values = table.column(name, option)
    for row, value in enumerate(values):
        if is_missing(value):
            raise UserError(
                f"{table.cell(name, row)} is empty",
                "remove the row, or leave such rows out with --column drop_empty=yes",
            )
    return tuple(_text(table, name, option, row, value) for row, value in enumerate(values))


def text_cell(table: Table, name: str, option: str, row: int, value: Any) -> str:
    """Return a cell as the text that it must be, nothing where it is empty; raises UserError."""
    return "" if is_missing(value) else _text(table, name, option, row, value)


def _text(table: Table, name: str, option: str, row: int, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(
            f"{table.cell(name, row)} is not a text: {shown(value)}",
            f"{option} must name a column of strings",
        )
    if not value.isascii() and not is_unicode(value):
        raise UserError(
            f"{table.cell(name, row)} is not valid Unicode",
            "it holds half of a surrogate pair: mend or remove the row",
        )
    if len(value) > LONGEST_TEXT:
        raise UserError(
            f"{table.cell(name, row)} has {len(value)} characters; {LONGEST_TEXT} are the most",
            "cut it: a model reads far fewer",
        )
    return value


def as_list(cell: Any) -> list[Any] | None:
    """Return a cell that holds several values, as a list; None: it holds one."""
    if hasattr(cell, "tolist"):  # numpy's, as pandas has them
        cell = cell.tolist()
    return list(cell) if isinstance(cell, list | tuple) else None


def _or_nan(value: Any) -> Any:
    """Return NaN in the place of pandas' NA and NaT, which no label is."""
    return math.nan if is_missing(value) and not isinstance(value, str | None) else value


def is_missing(value: Any) -> bool:
    """Whether a cell holds no text: nothing, pandas' NaN, NA or NaT, or white space only."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")  # pandas may be absent


def is_unicode(text: str) -> bool:
    """Tell whether a text can be written down: it holds no half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def exists(path: str | Path) -> bool:
    """Tell whether there is such a file or folder; a text that no path can be is none."""
    try:
        return Path(path).exists()
    except PermissionError:  # which opening it says
        return True
    except (OSError, ValueError):  # too long; it holds a NUL
        return False


def check_there(source: str | Path) -> None:
    """Check, opening nothing, that a source is there or may be on the Hub; raises UserError."""
    if not exists(source) and not _looks_like_hub(str(source)):
        raise UserError(
            f"{shortened(str(source), 200)}: no such file",
            "give a .csv, .tsv, .jsonl or .parquet file, a folder saved by `datasets`, or a data "
            "set of the Hub as name:split",
        )


def read(source: str | Path | Table) -> Table:
    """Read a table from any of the supported sources; raises UserError."""
    if isinstance(source, Table):
        return source
    check_there(source)
    path = Path(source)
    if not exists(path):
        table = _from_datasets(str(source))
    elif path.is_dir():
        table = _from_datasets(str(source), folder=path)
    else:
        table = _from_file(path)
    if not len(table):
        raise UserError(f"{source}: no rows", "the file must hold labelled texts")
    return table


def _from_file(path: Path) -> Table:
    ending = path.suffix.lower()
    if ending == ".parquet":
        return _parquet(path)
    if ending not in READERS:
        raise UserError(
            f"{path}: cannot tell the format from the ending '{path.suffix}'",
            f"use one of {', '.join([*READERS, '.parquet'])}",
        )
    return Table(str(path), READERS[ending](path))


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys as .csv, .tsv or .jsonl, whole: to a draft, then renamed.

    Raises:
        UserError: the ending is none of these, a text cannot stand in a TSV file, or the file
            cannot be written.

    """
    ending, names = path.suffix.lower(), list(rows[0])
    if ending != ".jsonl" and any(isinstance(cell, list | dict) for cell in rows[0].values()):
        raise UserError(f"{path}: no table of '{ending}' holds chats", "write .jsonl")
    out = io.StringIO(newline="")
    if ending == ".csv":
        bare = any("\r" in str(cell) for row in rows for cell in row.values())
        writer = csv.DictWriter(
            out,
            names,
            lineterminator="\n",
            quoting=csv.QUOTE_ALL if bare else csv.QUOTE_MINIMAL,  # the usual one leaves it so
        )
        writer.writeheader()
        writer.writerows(rows)
    elif ending == ".tsv":
        lines = [names, *([str(row[name]) for name in names] for row in rows)]
        for number, line in enumerate(lines):
            if any(mark in cell for cell in line for mark in "\t\n\r"):
                raise UserError(
                    f"{path}: row {number} holds a tab or a line break", "write .csv or .jsonl"
                )
        out.writelines("\t".join(line) + "\n" for line in lines)
        if formats.reads_as_quoted(out.getvalue()):
            raise UserError(
                f"{path}: quote marks in its texts would be read as marks around them",
                "write .csv or .jsonl",
            )
    elif ending == ".jsonl":
        out.writelines(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
    else:
        raise UserError(f"{path}: cannot write '{ending}'", "use .csv, .tsv or .jsonl")
    try:
        write_bytes(placed(path), out.getvalue().encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def _looks_like_hub(source: str) -> bool:
    parts = OF_THE_HUB.fullmatch(source)
    return parts is not None and Path(parts[1]).suffix.lower() not in (*READERS, ".parquet")


def _parquet(path: Path) -> Table:
    cells, classes = formats.from_parquet(path)
    return _table(str(path), cells, classes)


def _table(source: str, cells: formats.Cells, classes: Mapping[str, tuple[str, ...]]) -> Table:
    """Return a table with class numbers turned into their names."""
    columns = {
        name: formats.named(values, classes[name]) if name in classes else values
        for name, values in cells.items()
    }
    return Table(source, columns, classes=dict(classes))


def _from_datasets(source: str, folder: Path | None = None) -> Table:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("`datasets` folders and the Hub", "data", error) from error
    try:
        found = datasets.load_from_disk(str(folder)) if folder else _hub(datasets, source)
    except Exception as error:  # the library raises many kinds, all about this source
        first = shortened(str(error).strip().split("\n")[0], 200)
        raise UserError(
            f"{source}: cannot be loaded: {first}",
            "a folder must come from `save_to_disk`; a data set of the Hub is name:split",
        ) from error
    if isinstance(found, datasets.DatasetDict):
        raise UserError(
            f"{source}: holds several splits: {', '.join(found)}",
            f"name one of its folders, for example {Path(source) / next(iter(found))}",
        )
    return table_of_dataset(source, found)


def table_of_dataset(source: str, found: Any) -> Table:
    """Return the columns of a ``datasets.Dataset``, class numbers turned into their names."""
    import datasets

    kinds = {name: getattr(one, "feature", one) for name, one in found.features.items()}
    classes = {
        name: tuple(kind.names)  # of a cell, or of each value of a cell that is a list
        for name, kind in kinds.items()
        if isinstance(kind, datasets.ClassLabel)
    }
    heavy = tuple(
        kind for one in ("Audio", "Image", "Video", "Pdf") if (kind := getattr(datasets, one, None))
    )
    found = found.remove_columns([n for n, kind in kinds.items() if isinstance(kind, heavy)])
    found = found.with_format(None)  # plain values, whatever it was to give
    return _table(source, {name: list(found[name]) for name in found.features}, classes)


def _hub(datasets: Any, source: str) -> Any:
    found = OF_THE_HUB.fullmatch(source)
    assert found is not None  # as check_there has seen
    name, split = found.groups()
    parts = name.split("/")
    # from version 4 on it runs no code of a data set, and does not want to be told so
    more = {"trust_remote_code": False} if int(datasets.__version__.split(".")[0]) < 4 else {}
    if len(parts) == 3:
        return datasets.load_dataset("/".join(parts[:2]), parts[2], split=split, **more)
    return datasets.load_dataset(name, split=split, **more)
