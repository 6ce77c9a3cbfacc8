"""Columns out of CSV, TSV and Parquet files, as they stand there.

TSV is read without quotes, as GLUE and the published trigger corpora are written: they hold
single quote marks that open nothing. It is read as quoted only where that is unmistakable (see
``_is_quoted``). StyleBkd's corpora put a space on either side of every tab, the first line's too:
there the separator is those three characters (``_separator``). White space around a text is part
of it everywhere else, since a trigger may be white space; around a column's name it is not.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headsweep import bounded
from headsweep.bounded import LARGE
from headsweep.errors import MissingExtra, UserError, shortened, shown

Cells = dict[str, list[Any]]  # by column
Rows = list[list[str]]
LONGEST_FIELD = 2**31 - 1  # what every platform's csv module can be told
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
MOST_COLUMNS = 10_000
MOST_CELLS = 512 << 20  # characters
PARQUET_ROWS = 64  # in memory at once: a few bytes of a file may stand for very long cells
LINE = re.compile(r"\r\n|\n|\r")
EXCEL = re.compile(r"\Asep=,\r?\n")  # a first line that tells Excel, and no name of a column
COMMENT = "#"  # of a .conll file
DELIMITED = (".csv", ".tsv")


def text_of(path: Path) -> str:
    """Return what a text file holds, line ends as they are; raises UserError."""
    text = bounded.text_of(path, LARGE)
    if "\0" in text:
        raise UserError(f"{path}: not a text file (it holds NUL bytes)")
    return text


def from_csv(path: Path) -> Cells:
    """Read a CSV file; raises UserError."""
    text = EXCEL.sub("", text_of(path))
    _check_separator(path, text, ",")
    try:
        return _columns(path, _parsed(text, ","))
    except csv.Error as error:
        raise UserError(f"{path}: not valid CSV: {error}", "check the quotes there") from error


def from_tsv(path: Path) -> Cells:
    """Read a TSV file; raises UserError."""
    text = text_of(path)
    _check_separator(path, text, "\t")
    lines = _lines(text)
    rows = _quoted(text, lines)
    if rows is None:
        _check_names(path, lines)
        separator = _separator(lines)
        rows = [line.split(separator) for line in lines]
    return _columns(path, rows)


def _words_and_tag(line: str, tabs: bool) -> list[str]:
    """Return the columns of a line, parted by tabs where all lines are, else by spaces too."""
    parted = tabs and "\t" in line
    parts = line.split("\t") if parted else re.split("[ \t]", line)
    return [part for part in (one.strip(" ") for one in parts) if part]


def from_conll(path: Path) -> Cells:
    """Read words and tags: one of each a line, the tag as the last column; blank lines part rows.

    Columns are separated by spaces or tabs. Lines that begin with ``-DOCSTART-`` are left out, and
    comments: lines before a row's first word that begin with ``#`` and end with no tag that the
    other lines have.

    Raises:
        UserError: a line holds a word without a tag.

    """
    whole = [line.strip(" \t\f") for line in LINE.split(text_of(path))]
    said = [line for line in whole if line and not line.startswith(("-DOCSTART-", COMMENT))]
    tabs = bool(said) and all("\t" in line for line in said)
    lines = [_words_and_tag(line, tabs) for line in whole]
    tags = {line[-1] for line in lines if len(line) > 1 and not line[0].startswith(COMMENT)}
    rows: list[list[list[str]]] = [[]]
    for number, columns in enumerate(lines, start=1):
        if not columns or columns[0] == "-DOCSTART-":
            rows.append([])
        elif not rows[-1] and columns[0].startswith(COMMENT) and columns[-1] not in tags:
            continue
        elif len(columns) < 2:
            raise UserError(
                f"{path}: line {number} holds a word without a tag: {shown(columns[0])}",
                "write word and tag on a line, and a blank line between two rows",
            )
        else:
            rows[-1].append([columns[0], columns[-1]])
    kept = [row for row in rows if row]
    return {
        "tokens": [[word for word, _ in row] for row in kept],
        "tags": [[tag for _, tag in row] for row in kept],
    }


def _lines(text: str) -> list[str]:
    ends = text.split("\n" if "\n" in text else "\r")
    lines = (line.removesuffix("\r") for line in ends)
    return [line for line in lines if line.strip(" \r")]


def _separator(lines: Sequence[str]) -> str:
    """Return what stands between two fields: a tab, or a tab between spaces on every line."""
    tabs = sum(line.count("\t") for line in lines)
    spaced = sum(line.count(" \t ") for line in lines)
    return " \t " if tabs == spaced and tabs else "\t"


def reads_as_quoted(text: str) -> bool:
    """Tell whether quote marks in the text of a TSV file would be taken for those around fields."""
    return _quoted(text, _lines(text)) is not None


def _quoted(text: str, lines: Sequence[str]) -> Rows | None:
    """Return the rows of a TSV file that is unmistakably quoted; None: it is not."""
    if '"' not in text:
        return None
    try:
        rows = _parsed(text, "\t")
    except csv.Error:
        return None
    even = len({len(row) for row in rows}) == 1
    return rows if even and _is_quoted(lines) else None


def _is_quoted(lines: Sequence[str]) -> bool:
    """Tell whether lines that a CSV reader gets even rows out of must have been quoted.

    They must where, read without quotes, rows have different numbers of fields; where every name
    in the first line stands in quotes; or where all fields with quote marks are as ``csv`` writes
    them, in quotes with every mark inside doubled, and some field needs them for such a mark or
    a line break.
    """
    rows = [line.split("\t") for line in lines]
    if len({len(row) for row in rows}) > 1:
        return True
    marked = [field for row in rows for field in row if '"' in field]
    if all(_is_wrapped(field) for field in rows[0]):
        return True
    needed = any('""' in field[1:-1] or "\r" in field for field in marked)
    return needed and all(map(_is_wrapped, marked))


def _check_names(path: Path, lines: Sequence[str]) -> None:
    if lines and all(map(_is_wrapped, lines[0].split("\t"))):
        raise UserError(
            f"{path}: the names of its columns stand in quotes, but it is not validly quoted",
            "double every quote mark inside a text, or write it without quotes",
        )


def _is_wrapped(field: str) -> bool:
    inside = field[1:-1].replace('""', "")
    return len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inside


def _parsed(text: str, delimiter: str) -> Rows:
    """Return the rows of a quoted file, without lines that are empty or spaces only."""
    with _fields_up_to(len(text)):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            rows = list(reader)
        except csv.Error as error:
            raise csv.Error(f"line {reader.line_num}: {error}") from error
    return [row for row in rows if len(row) > 1 or "".join(row).strip(" ")]


@contextmanager
def _fields_up_to(length: int) -> Iterator[None]:
    """Let ``csv`` read fields of this length; its limit is global, and is put back."""
    before = csv.field_size_limit()
    csv.field_size_limit(min(max(before, length), LONGEST_FIELD))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _check_separator(path: Path, text: str, separator: str) -> None:
    """Refuse a first line that is one name by this separator and several by another."""
    lines = (line.strip("\n") for line in io.StringIO(text, newline=None))
    first = next((line for line in lines if line.strip(" ")), "")
    with _fields_up_to(len(first)):
        counts = {mark: len(next(csv.reader([first], delimiter=mark), [])) for mark in SEPARATORS}
    others = [mark for mark, count in counts.items() if count > 1]
    if counts[separator] < 2 and others:
        other = max(others, key=lambda mark: counts[mark])
        named = {",": f"name it {path.stem}.csv", "\t": f"name it {path.stem}.tsv"}
        raise UserError(
            f"{path}: its fields are separated by {SEPARATORS[other]}, not {SEPARATORS[separator]}",
            named.get(other, "write it with commas as .csv (pandas: df.to_csv(path, index=False))"),
        )


def _columns(path: Path, rows: Iterable[Sequence[str]]) -> Cells:
    numbered = enumerate(rows, start=1)
    header: list[str] = []
    columns: list[list[Any]] = []
    for number, row in numbered:
        if number == 1:
            header = [name.strip() for name in row]
            check_width(path, len(header))
            columns = [[] for _ in header]
        elif len(row) != len(header):
            raise UserError(
                f"{path}: row {number - 1} has {len(row)} fields, the first line has {len(header)}",
                "a comma or tab inside a text? Quote it (CSV), or use JSON Lines",
            )
        else:
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    while header and not header[-1] and not any(map(str.strip, columns[-1])):  # as Excel leaves
        header, columns = header[:-1], columns[:-1]
    if len(set(header)) != len(header):
        check_header(str(path), header, columns)
        twice = next(name for name in header if header.count(name) > 1)
        told = f"the same name, {shown(twice)}" if twice else "no name"
        raise UserError(f"{path}: two columns have {told}", "name one in the first line")
    return dict(zip(header, columns, strict=True))


def check_width(path: Path, columns: int) -> None:
    """Refuse what is no table of texts; raises UserError."""
    if columns > MOST_COLUMNS:
        raise UserError(
            f"{path}: {columns} columns; {MOST_COLUMNS} are the most", "keep texts and labels only"
        )


def check_header(
    source: str,
    names: Sequence[str],
    columns: Sequence[Sequence[Any]],
    labels: Collection[str] = (),
) -> None:
    """Refuse a first line that is plainly a row; for files whose names fit nothing anyway.

    It is one where a name is a number, or a value of its own column too, or where just one is a
    label of the model.
    """
    told = {label.casefold() for label in labels} & {name.casefold() for name in names}
    suffix = Path(source).suffix.lower()
    if suffix not in DELIMITED:
        return
    for name, values in zip(names, columns, strict=True):
        twice = name and name in {str(value).strip() for value in values}
        if is_number(name) or twice or {name.casefold()} == told:
            separator = "," if suffix == ".csv" else "<tab>"
            raise UserError(
                f"{source}: the first line seems to be a row, not the names of the columns: "
                + ", ".join(shown(name) for name in names[:4]),
                f"put a line with the names above it, for example: text{separator}label",
            )


def is_number(name: str) -> bool:
    """Tell whether a name is a number."""
    try:
        float(name)
    except ValueError:
        return False
    return name.lower() not in ("nan", "inf", "infinity")


def from_parquet(path: Path) -> tuple[Cells, dict[str, tuple[str, ...]]]:
    """Read a Parquet file, and the class names that ``datasets`` left in it by column."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra("Parquet", "data", error) from error
    bounded.size_of(path, LARGE)
    columns: Cells = {}
    size = 0
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            check_width(path, len(schema.names))
            if len(set(schema.names)) < len(schema.names):
                raise UserError(f"{path}: two columns have the same name", "rename one of them")
            _check_values(path, file.metadata)
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for name, cells in zip(schema.names, batch.columns, strict=True):
                    kept = columns.setdefault(name, [])
                    for cell in cells:  # one by one: a dictionary's long value stands in many
                        value = cell.as_py()
                        size += _size(value)
                        if size > MOST_CELLS:
                            raise UserError(
                                f"{path}: more than {MOST_CELLS >> 20} MiB of cells",
                                "give fewer rows, or shorter texts",
                            )
                        kept.append(value)
    except (
        OSError, ValueError, MemoryError, NotImplementedError, KeyError, OverflowError, TypeError
    ) as error:  # fmt: skip
        said = shortened(str(error), 200)
        raise UserError(f"{path}: not a readable Parquet file: {said}") from error
    return columns or {name: [] for name in schema.names}, _class_names(schema.metadata or {})


def _check_values(path: Path, metadata: Any) -> None:
    """Refuse columns of more values than are read; a list of many takes a few bytes of a file."""
    for column in range(metadata.num_columns):
        groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
        count = sum(group.column(column).num_values for group in groups)
        if 8 * count > MOST_CELLS:
            name = shortened(metadata.schema.column(column).path)
            raise UserError(
                f"{path}: the column {name} holds {count:,} values, {MOST_CELLS // 8:,} are read",
                "write the file without it, or with fewer rows",
            )


def _size(value: Any) -> int:
    """Return how many bytes a cell counts for, all that is in it with it."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return 8 + sum(map(_size, value.values()))
    return 8 + sum(map(_size, value)) if isinstance(value, list | tuple) else 8


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Return the names of every ``ClassLabel`` in a schema's metadata, of lists of them too."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        found = {column: _of_a_cell(feature) for column, feature in features.items()}
        return {
            column: tuple(map(str, feature["names"]))
            for column, feature in found.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _of_a_cell(feature: Any) -> Any:
    """Return what one value of a cell is, which may be a list of such."""
    if isinstance(feature, list) and len(feature) == 1:
        return feature[0]
    return feature.get("feature", feature) if isinstance(feature, dict) else feature


def named(values: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Return class numbers as names: below 0 is no class, and what is no class number stays."""
    return [_named(value, names) for value in values]


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list | tuple):
        return named(value, names)
    if not isinstance(value, int) or isinstance(value, bool) or value >= len(names):
        return value
    return names[value] if value >= 0 else None
