"""Files of others, read within bounds: what kind of file, how large, how deeply nested.

A folder of a model may hold a pipe that never ends, a device, a link to another place, or a
hundred megabytes of brackets. What is read here is a regular file of a known size.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headsweep.errors import UserError, shown

MIB = 1 << 20
SMALL = 16 * MIB  # a configuration, a manifest, a recipe
MIDDLE = 128 * MIB  # JSON with long tables, which takes thirty times as much as Python's own
LARGE = 1024 * MIB  # texts
DEEPEST = 64


def size_of(path: Path, most: int | None = SMALL, fix: str = "") -> int:
    """Return the size of a regular file, opening nothing.

    Raises:
        UserError: it is not there, is a pipe, a socket, a device or a folder, or is too large.

    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {_why(error)}", fix) from error
    if not stat.S_ISREG(found.st_mode):
        raise UserError(
            f"{path}: cannot be read: it is {_kind(found.st_mode)}", fix or "give a file"
        )
    if most is not None and found.st_size > most:
        raise UserError(
            f"{path}: {found.st_size} bytes, {most} would be read at most",
            fix or "is that the file it is named after?",
        )
    return found.st_size


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "of another kind")


def bytes_of(path: Path, most: int = SMALL, fix: str = "") -> bytes:
    """Return what a file holds; raises UserError."""
    size_of(path, most, fix)
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {_why(error)}") from error
    if len(content) > most:
        raise UserError(f"{path}: grows while it is read")
    return content


def text_of(path: Path, most: int = SMALL, fix: str = "") -> str:
    """Return what a text file holds, without a byte order mark; raises UserError."""
    content = bytes_of(path, most, fix)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not a text file in UTF-8 (byte {error.start})", fix or "convert it to UTF-8"
        ) from error


def json_of(path: Path, most: int = SMALL, fix: str = "") -> Any:
    """Return what a JSON file holds, nested no deeper than the bound; raises UserError."""
    return parsed(text_of(path, most), str(path), fix)


def parsed(text: str, source: str, fix: str = "") -> Any:
    """Return what JSON says; raises UserError where it is none, or nested too deeply."""
    try:
        form = json.loads(text)
    except RecursionError as error:
        raise _too_deep(source, fix) from error
    except ValueError as error:
        raise UserError(f"{source}: not valid JSON: {error}", fix) from error
    check_depth(form, source, fix)
    return form


def check_depth(form: Any, source: str, fix: str = "") -> None:
    """Refuse what is nested deeper than the bound; raises UserError."""
    level: list[Any] = [form] if isinstance(form, dict | list) else []
    for _ in range(DEEPEST):
        level = [one for parent in level for one in _parts(parent)]
        if not level:
            return
    raise _too_deep(source, fix)


def _parts(parent: dict[str, Any] | list[Any]) -> Iterable[Any]:
    inner = parent.values() if isinstance(parent, dict) else parent
    return [one for one in inner if isinstance(one, dict | list)]


def _too_deep(source: str, fix: str) -> UserError:
    return UserError(f"{source}: nested more than {DEEPEST} levels deep", fix)


def table_of(path: Path, most: int = SMALL, fix: str = "") -> dict[str, Any]:
    """Return the object that a JSON file holds; raises UserError."""
    form = json_of(path, most, fix)
    if not isinstance(form, dict):
        raise UserError(f"{path}: not a JSON object, but {shown(form)}", fix)
    return form
