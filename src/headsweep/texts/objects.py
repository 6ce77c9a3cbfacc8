"""Columns out of JSON: rows as objects, one a line or in a list.

A file that holds a whole table in another shape, as pandas and exports of data sets write one, is
refused with the shape's name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headsweep.bounded import check_depth
from headsweep.errors import UserError, shortened, shown_all
from headsweep.texts.formats import Cells, check_width, is_number, text_of


def from_json(path: Path) -> Cells:
    """Read JSON Lines, or a list of objects; raises UserError."""
    text = text_of(path)
    records = _listed(path, text) if text.lstrip().startswith("[") else _by_line(path, text)
    if not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path}: every row must be an object", '{"text": "...", "label": 0}')
    if len(records) == 1:
        _check_record(path, records[0])
    names = list(records[0]) if records else []
    check_width(path, len(names))
    for row, record in enumerate(records, start=1):
        if list(record) != names and set(record) != set(names):
            raise UserError(
                f"{path}: row {row} has other keys than the first row",
                "give every row the same keys; null stands for nothing",
            )
    return {name: [record[name] for record in records] for name in names}


def _listed(path: Path, text: str) -> list[Any]:
    try:
        found: list[Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
    check_depth(found, str(path))
    return found


def _by_line(path: Path, text: str) -> list[Any]:
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                _check_whole(path, text)
                raise UserError(
                    f"{path}: line {number} is not JSON: {error}", "write one object a line"
                ) from error
    check_depth(records, str(path))
    return records


def _check_whole(path: Path, text: str) -> None:
    """Say so where the lines are no objects but the whole file is one."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(whole, dict):
        _check_record(path, whole)


def _check_record(path: Path, record: Mapping[str, Any]) -> None:
    """Refuse an object that holds a whole table, as pandas writes one by default."""
    shape = _shape(record)
    if shape:
        raise UserError(
            f"{path}: {shape}",
            'write rows: in pandas df.to_json(path, orient="records", lines=True)',
        )


def _shape(record: Mapping[str, Any]) -> str:
    """Return in words how an object holds a whole table; empty: it is one row."""
    nested = {name: value for name, value in record.items() if isinstance(value, dict | list)}
    if any(_is_chat(value) for value in nested.values()) or "tokens" in nested:
        return ""
    if not nested or len(record) - len(nested) > 1:  # a row has two plain values at least
        return ""
    if {"columns", "data"} <= set(nested):
        return "holds rows under 'data' and their names under 'columns', not rows alone"
    lists = (name for name, value in nested.items() if _is_list_of(dict, value))
    under = next(lists, None)
    if under is not None:
        return f"holds its rows in a list under '{shortened(under)}', not alone"
    if len(nested) < len(record):
        return ""
    inner = next(iter(nested.values()))
    numbers = all(map(is_number, nested))
    if _is_list_of(dict, list(nested.values())) and (numbers or len(nested) > len(inner)):
        kind, two = "numbered" if numbers else "named", shown_all(list(nested)[:2])
        return f"holds one object of {kind} rows ({two}, ...), not rows"
    return f"holds one object of whole columns ({shown_all(list(nested))}), not rows"


def _is_list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, kind) for x in value)


def _is_chat(value: object) -> bool:
    """Tell whether a value is a chat, which one row may hold."""
    turns = value if isinstance(value, list) else []
    return bool(turns) and all(isinstance(turn, dict) and "role" in turn for turn in turns)
