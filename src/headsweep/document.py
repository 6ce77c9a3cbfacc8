"""TOML files of the user: read with the standard library, mistakes named with their line."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from headsweep.bounded import check_depth, text_of
from headsweep.errors import UserError, lookup
from headsweep.settings import as_text, fitting, type_name

HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
T = TypeVar("T")
Place = tuple[str | int, ...]


def place_of(lines: Sequence[str], path: Place, key: str | None = None) -> int | None:
    """Return the line, from 1, of a key in a table (or of the table itself).

    ``path`` names the table: keys, and the number of the element for arrays of tables. Where
    the table is written inline, the line of the table is the answer.
    """
    counts: Counter[Place] = Counter()
    current: Place = ()
    for number, line in enumerate(lines, start=1):
        header = HEADER.match(line)
        if header:
            names = tuple(part.strip().strip("\"'") for part in header[2].split("."))
            if header[1] == "[[":
                counts[names] += 1
            current = ()
            for end in range(1, len(names) + 1):
                current += (names[end - 1],)
                if counts[names[:end]]:
                    current += (counts[names[:end]] - 1,)
            if key is None and current == path:
                return number
        elif key is not None and current == path and _sets(line, key):
            return number
    if not path:
        return None
    above = path[:-1] if isinstance(path[-1], str) else path[:-2]
    name = path[-1] if isinstance(path[-1], str) else path[-2]
    return place_of(lines, above, str(name))


def _sets(line: str, key: str) -> bool:
    return bool(re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line))


@dataclass(frozen=True)
class Section:
    """One table of a TOML file, which knows where its keys stand."""

    source: str
    lines: tuple[str, ...]
    values: Mapping[str, Any]
    path: Place = ()

    def mistake(self, key: str | None, what: str, fix: str = "") -> UserError:
        """Return an error about a key of this table, or about the table."""
        table = (*self.path, key) if key else self.path  # an unknown key may be a whole table
        line = place_of(self.lines, self.path, key)
        if key is not None and line is None:
            line = place_of(self.lines, table) or place_of(self.lines, (*table, 0))
        return UserError(f"{self.source}{f', line {line}' if line else ''}: {what}", fix)

    @contextmanager
    def blamed(self, key: str | None) -> Iterator[None]:
        """Give the line of a key to a UserError raised inside."""
        try:
            yield
        except UserError as error:
            raise self.mistake(key, error.what, error.fix) from error

    def only(self, *known: str) -> None:
        """Raise UserError, with a suggestion, for a key that is not among these."""
        for key in self.values:
            with self.blamed(key):
                lookup(key, dict.fromkeys(known), "key")

    def get(self, key: str, kind: type[T], default: T | None = None) -> T | None:
        """Return a value as the kind asked for, by the rule of ``settings``."""
        if key not in self.values:
            return default
        with self.blamed(key):
            found: T = fitting(self.values[key], kind, key)
        return found

    def need(self, key: str, kind: type[T]) -> T:
        """Return a value that must be there."""
        found = self.get(key, kind)
        if found is None:
            raise self.mistake(None, f"'{key}' is missing", f"it takes {type_name(kind)}")
        return found

    def section(self, key: str) -> Section:
        """Return a table inside this one; an empty one where it is left out."""
        found = self.get(key, dict) or {}
        return Section(self.source, self.lines, found, (*self.path, key))

    def sections(self, key: str) -> list[Section]:
        """Return the tables of an array of tables."""
        found = self.get(key, list) or []
        if not all(isinstance(one, dict) for one in found):
            raise self.mistake(key, f"{key} is not an array of tables", f"write it as [[{key}]]")
        paths = ((*self.path, key, i) for i in range(len(found)))
        return [
            Section(self.source, self.lines, one, path)
            for one, path in zip(found, paths, strict=True)
        ]

    def settings(self) -> list[str]:
        """Return the values as ``field=value``, as they are typed in a command line."""
        return [f"{key}={as_text(value)}" for key, value in self.values.items()]

    def filled(self, fill: Callable[[Mapping[str, Any]], T]) -> T:
        """Return what ``fill`` makes of the values; a mistake gets the line of its field."""
        try:
            return fill(self.values)
        except UserError as error:
            for key, value in self.values.items():  # which of them is wrong by itself?
                with self.blamed(key):
                    fill({key: value})
            raise self.mistake(None, error.what, error.fix) from error


def read_document(path: Path) -> Section:
    """Read a TOML file.

    Raises:
        UserError: it cannot be read, or is not TOML (with the line).

    """
    text = text_of(path)
    try:
        values = tomllib.loads(text)
    except RecursionError as error:
        raise UserError(f"{path}: not TOML that can be read: nested too deeply") from error
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path}: not TOML: {error}") from error
    check_depth(values, str(path))
    return Section(str(path), tuple(text.split("\n")), values)
