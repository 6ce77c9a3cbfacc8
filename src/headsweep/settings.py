"""Fill a method's fields from text such as ``step=6``: one rule for recipe and command line."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from headsweep.errors import UserError, lookup

T = TypeVar("T")


def configure(method: type[T], settings: Sequence[str]) -> T:
    """Return an instance with ``name=value`` settings applied to its defaults.

    Raises:
        UserError: an unknown field (with a suggestion), or a value that does not fit it.

    """
    hints = get_type_hints(method)
    known = {field.name: hints[field.name] for field in fields(method)}  # type: ignore[arg-type]
    name = getattr(method, "name", method.__name__)
    values: dict[str, Any] = {}
    if settings and not known:
        raise UserError(f"'{name}' has no fields", "leave out --set")
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"'{setting}' is not of the form field=value", "for example step=6")
        kind = lookup(key.strip(), known, f"field of '{name}'")
        values[key.strip()] = _parse(text.strip(), kind, f"{name}: {key.strip()}")
    return method(**values)


def described(method: type[Any]) -> list[tuple[str, str, str]]:
    """Return a method's fields as (name, type, default)."""
    hints = get_type_hints(method)
    rows = []
    for field in fields(method):
        default = "" if field.default is MISSING else str(field.default)
        rows.append((field.name, _type_name(hints[field.name]), default))
    return rows


def describe(method: Any) -> dict[str, Any]:
    """Return a method's name and the values of its fields."""
    assert is_dataclass(method)
    values = {field.name: getattr(method, field.name) for field in fields(method)}
    return {"name": getattr(method, "name", type(method).__name__), "fields": values}


def _options(kind: Any) -> tuple[Any, ...]:
    union = get_origin(kind) in (typing.Union, types.UnionType)
    return get_args(kind) if union else (kind,)


def _type_name(kind: Any) -> str:
    parts = []
    for option in _options(kind):
        if get_origin(option) is Literal:
            parts.append(" | ".join(get_args(option)))
        else:
            parts.append("none" if option is type(None) else option.__name__)
    return " | ".join(parts)


def _parse(text: str, kind: Any, where: str) -> Any:
    for option in _options(kind):
        try:
            return _as(text, option)
        except ValueError:
            continue
    raise UserError(f"{where} cannot be '{text}'", f"it takes {_type_name(kind)}")


def _as(text: str, option: Any) -> Any:
    if option is type(None):
        if text.casefold() in ("none", "null"):
            return None
        raise ValueError(text)
    if get_origin(option) is Literal:
        if text in get_args(option):
            return text
        raise ValueError(text)
    if option is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.casefold() in words:
            return words[text.casefold()]
        raise ValueError(text)
    return option(text)
