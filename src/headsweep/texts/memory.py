"""Labelled texts that Python holds, as the tables that files give.

A pandas data frame, a ``datasets.Dataset``, rows as dicts, or columns as ``(texts, labels)``.
Columns are guessed, labels named and rows checked as those of a file are; a message names the
argument in place of the file. Neither pandas nor datasets is imported: who has such an object has
imported them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headsweep.errors import UserError, shortened, shown_all
from headsweep.texts.reading import Source, Table, is_unicode, table_of_dataset
from headsweep.texts.split import Split

TAKES = (
    "a file, folder or name:split, a Split, (texts, labels), (texts, pairs, labels), a list of "
    "dicts, a pandas DataFrame or a datasets.Dataset"
)
COLUMNS = {2: ("text", "label"), 3: ("text", "text2", "label")}
"""How the parts of a tuple are called, by their number."""


def given(value: Any, argument: str) -> Source:
    """Return labelled texts as they are read from: a path stays one, an object becomes a table.

    Args:
        value: what the caller gave.
        argument: its name, for messages.

    Raises:
        UserError: nothing that holds labelled texts; the message names the argument and what it
            takes.

    """
    if isinstance(value, Split):
        return _checked(value, argument)
    if isinstance(value, Table | str | Path):
        return value
    if _is_of("pandas", "DataFrame", value):
        return _of_frame(value, argument)
    if _is_of("datasets", "Dataset", value):
        return _some(table_of_dataset(argument, value), argument)
    if _is_of("datasets", "DatasetDict", value):
        first = next(iter(value), "train")
        raise UserError(
            f"{argument} holds several splits: {shown_all(list(value))}",
            f"give one of them, for example {argument}[{first!r}]",
        )
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        return _of_rows(value, argument)
    if isinstance(value, list) and not value:
        raise UserError(f"{argument}: no rows", f"it takes {TAKES}")
    if isinstance(value, tuple) and len(value) in COLUMNS:
        return _of_columns(value, argument)
    raise _wrong(f"{argument} cannot be {_kind(value)}")


def _is_of(module: str, name: str, value: object) -> bool:
    """Tell whether a value is of a class of a module, which is not imported for that."""
    found = getattr(sys.modules.get(module), name, None)
    return isinstance(found, type) and isinstance(value, found)


def _checked(split: Split, argument: str) -> Split:
    """Return a Split whose parts are what they should be; raises UserError."""
    lengths = {"texts": len(split.texts), "labels": len(split.labels)}
    lengths |= {"pairs": len(split.pairs)} if split.pairs else {}
    if len({*lengths.values()}) > 1:
        told = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise UserError(f"{argument}: the parts of the Split differ in length: {told}")
    if not all(isinstance(text, str) for text in (*split.texts, *split.pairs)):
        raise UserError(f"{argument}: some text of the Split is no text", "give strings")
    if not all(map(is_unicode, (*split.texts, *split.pairs))):
        raise UserError(
            f"{argument}: some text of the Split is not valid Unicode",
            "it holds half of a surrogate pair: mend or remove the row",
        )
    if not all(
        isinstance(label, int | float | tuple) and not isinstance(label, bool)
        for label in split.labels
    ):
        raise UserError(
            f"{argument}: some label of the Split is no number",
            "a Split has class numbers; (texts, labels) takes names too",
        )
    return split


def _of_frame(frame: Any, argument: str) -> Table:
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"{argument}: several columns are called {shown_all(twice)}", "rename all but one"
        )
    columns = {name: frame.iloc[:, i].tolist() for i, name in enumerate(names)}
    return _some(Table(argument, columns), argument)


def _of_rows(rows: Sequence[Any], argument: str) -> Table:
    names = [str(name) for name in rows[0]]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise _wrong(f"{argument}: row {number} is {_kind(row)}, the first is a dict")
        if {str(name) for name in row} != {*names}:
            raise UserError(
                f"{argument}: row {number} has other keys than the first row",
                "give every row the same keys; None stands for nothing",
            )
    columns = {str(name): [row[name] for row in rows] for name in rows[0]}
    return _some(Table(argument, columns), argument)


def _of_columns(parts: tuple[Any, ...], argument: str) -> Table:
    names = COLUMNS[len(parts)]
    columns = {name: _listed(part) for name, part in zip(names, parts, strict=True)}
    for name, cells in columns.items():
        if cells is None:
            part = parts[names.index(name)]
            raise _wrong(f"{argument}: its {name}s are {_kind(part)}, not a list")
    lengths = {f"{name}s": len(cells or ()) for name, cells in columns.items()}
    if len({*lengths.values()}) > 1:
        told = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise _wrong(f"{argument}: its columns differ in length: {told}")
    full = {name: cells or [] for name, cells in columns.items()}
    return _some(Table(argument, full, unnamed=True), argument)


def _listed(part: Any) -> list[Any] | None:
    """Return a column as a list of plain values; None where it has no order."""
    if isinstance(part, str | bytes | Mapping):
        return None
    if hasattr(part, "tolist"):  # of numpy, pandas or torch: their numbers become Python's
        cells = part.tolist()
        return cells if isinstance(cells, list) else None
    return list(part) if isinstance(part, Sequence) else None


def _some(table: Table, argument: str) -> Table:
    if not len(table):
        raise UserError(f"{argument}: no rows", "it must hold labelled texts")
    return table


def _wrong(what: str) -> UserError:
    return UserError(what, f"it takes {TAKES}")


def _kind(value: object) -> str:
    """Return in words what a value is: its type, and how many parts where that tells more."""
    if value is None:
        return "None"
    parts = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {shortened(name)}{parts}"
