"""Check what the fields of a method are given: one rule for command line, recipe and Python.

A command line gives texts (``step=6``), a recipe gives values of TOML, Python gives values of its
own. pydantic reads them all by the type of the field, and what does not fit gets the same message
wherever it came from. pydantic is imported when the first value is checked.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from headsweep.errors import UserError, lookup, shown

T = TypeVar("T")
Settings = Sequence[str] | Mapping[str, Any]  # field=value as typed, or values by field
OFFERED = "offered"
NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true | false",
    Path: "a path",
    dict: "a table",
    list: "a list",
    type(None): "none",
}
PLAIN = (int, float, str, bool, Path, type(None))


def checked(kind: type[T]) -> type[T]:
    """Let a dataclass check the types of its values when it is made, before all else.

    It stands below ``@dataclass``. Numbers, texts and choices are read, objects of classes must be
    of theirs; what else there is (protocols, lists of lists) is left to the type checker.
    """
    after: Callable[[Any], None] | None = getattr(kind, "__post_init__", None)

    def check(self: Any) -> None:
        own: Any = type(self)
        for name, wanted in plain_fields(own).items():
            value = getattr(self, name)
            found = fitting(value, wanted, f"{_name(self)}: {name}")
            if type(value) is int and found == value:
                found = value  # a whole number stays one: results are told apart by how it is shown
            object.__setattr__(self, name, found)
        for name, kinds in _object_fields(own).items():
            if not isinstance(getattr(self, name), kinds):
                raise _unlike(f"{_name(self)}: {name}", getattr(self, name), kinds)
        if after is not None:
            after(self)

    kind.__post_init__ = check  # type: ignore[attr-defined]
    return kind


def able(value: Any, does: str, where: str, takes: str) -> Any:
    """Return an object that has a method of this name; raises UserError, as for its class."""
    if hasattr(value, does) and not isinstance(value, type):
        return value
    raise UserError(f"{where} cannot be {_told(value)}", f"it takes {takes}")


def _unlike(where: str, value: Any, kinds: tuple[type, ...]) -> UserError:
    names = [NAMES.get(kind, f"{kind.__name__}(...)") for kind in kinds]
    return UserError(f"{where} cannot be {_told(value)}", f"it takes {' or '.join(names)}")


def _told(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else str(shown(value))


def hidden(default: Any) -> Any:
    """Return a dataclass field that no command line offers."""
    return field(default=default, metadata={OFFERED: False})


def configure(method: type[T], settings: Settings, option: str = "--set") -> T:
    """Return an instance with settings in place of its defaults.

    Raises:
        UserError: an unknown field (with a suggestion), or a value that does not fit it.

    """
    return method(**read(method, settings, option=option))


def changed(usual: T, settings: Settings, option: str = "--set", less: Collection[str] = ()) -> T:
    """Return an instance with some of its fields set anew, of those that a command line offers."""
    known = [name for name in offered(type(usual)) if name not in less]
    values = read(type(usual), settings, known, option)
    return replace(usual, **values)  # type: ignore[type-var]


def read(
    method: type[Any], settings: Settings, known: Collection[str] | None = None, option: str = ""
) -> dict[str, Any]:
    """Return the values of a method's fields that settings give; ``known``: of these alone."""
    wanted = {n: x for n, x in plain_fields(method).items() if known is None or n in known}
    given = (
        settings.items() if isinstance(settings, Mapping) else (pair(x, option) for x in settings)
    )
    pairs = list(given)
    if pairs and not wanted:
        raise UserError(f"'{_name(method)}' has no fields", f"leave out {option or '--set'}")
    return {
        key: fitting(
            value, lookup(key, wanted, f"field of '{_name(method)}'"), f"{_name(method)}: {key}"
        )
        for key, value in pairs
    }


def pair(setting: str, option: str = "") -> tuple[str, str]:
    """Return the two sides of ``field=value``; raises UserError."""
    key, equals, text = setting.partition("=")
    if not equals:
        named = f"{option} " if option else ""
        raise UserError(
            f"{named}'{setting}' is not of the form field=value", f"give {named}FIELD=VALUE"
        )
    return key.strip(), text.strip()


def fitting(value: Any, kind: Any, where: str) -> Any:
    """Return a value as a type wants it: a text read as what it says; raises UserError.

    A text may say none, and the parts of a list with commas between.
    """
    from pydantic import ValidationError

    options = _options(kind)
    said = value
    if isinstance(value, str) and value.casefold() in ("none", "null") and type(None) in options:
        return None
    if isinstance(value, str) and any(get_origin(option) is tuple for option in options):
        said = [part.strip() for part in value.split(",") if part.strip()]
    try:
        if isinstance(value, bool) and not {bool, Any} & set(options):
            raise ValueError(value)  # to pydantic true is 1
        return _adapter(kind).validate_python(said)
    except (ValidationError, ValueError) as error:
        words = [word for option in options for word in get_args(option) if isinstance(word, str)]
        near = difflib.get_close_matches(str(value), words, n=1)
        guess = f"did you mean '{near[0]}'? " if near else ""
        what = f"{where} cannot be {shown(value)}"
        raise UserError(what, f"{guess}it takes {type_name(kind)}") from error


def type_name(kind: Any) -> str:
    """Return what values of a type are, in words."""
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"{type_name(get_args(kind)[0]).removeprefix('a ')}s with commas between"
    if get_origin(kind) is Annotated:
        return f"{type_name(_bare(kind))} above {get_args(kind)[1].gt}"
    if len(_options(kind)) > 1:
        return " or ".join(map(type_name, _options(kind)))
    return NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def plain_fields(method: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields that text can give, by name."""
    return _plain_fields(method)


@cache
def _plain_fields(method: Any) -> dict[str, Any]:
    hints = get_type_hints(method, include_extras=True)
    return {one.name: hints[one.name] for one in fields(method) if _is_plain(hints[one.name])}


@cache
def _object_fields(method: Any) -> dict[str, tuple[type, ...]]:
    """Return the classes of the fields that take objects of classes and nothing else."""
    hints = get_type_hints(method)
    others = {one.name: _options(hints[one.name]) for one in fields(method)
              if one.name not in plain_fields(method)}  # fmt: skip
    return {name: kinds for name, kinds in others.items() if all(map(_is_class, kinds))}


def _is_class(kind: Any) -> bool:
    return isinstance(kind, type) and kind is not Any and not getattr(kind, "_is_protocol", False)


def offered(method: type[Any]) -> list[str]:
    """Return the names of the fields that a command line offers."""
    known = plain_fields(method)
    return [one.name for one in fields(method)
            if one.name in known and one.metadata.get(OFFERED, True)]  # fmt: skip


def described(method: Any) -> list[tuple[str, str, str]]:
    """Return the fields of a method, or of an instance of it, as (name, type, default)."""
    kind = method if isinstance(method, type) else type(method)
    usual = {one.name: one.default for one in fields(kind)}
    if not isinstance(method, type):
        usual = {name: getattr(method, name) for name in usual}
    known = plain_fields(kind)
    said = {name: "" if x is MISSING else as_text(x) for name, x in usual.items()}
    return [(name, type_name(known[name]), said[name]) for name in offered(kind)]


def describe(method: Any) -> dict[str, Any]:
    """Return a method's name and the values of its fields: of what is no dataclass none."""
    there = fields(method) if is_dataclass(method) else ()
    values = {one.name: getattr(method, one.name) for one in there}
    return {"name": _name(method), "fields": values}


def _name(method: Any) -> str:
    kind = method if isinstance(method, type) else type(method)
    return str(getattr(method, "name", kind.__name__))


def as_text(value: Any) -> str:
    """Return a value as it is typed: the parts of a list with commas between."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _options(kind: Any) -> tuple[Any, ...]:
    union = get_origin(kind) in (typing.Union, types.UnionType)
    return get_args(kind) if union else (kind,)


def _is_plain(kind: Any) -> bool:
    """Tell whether a text can give it: a number, a text, one of a few words, a list of such."""
    if get_origin(kind) is tuple:
        return get_args(kind)[1:] == (...,) and get_args(kind)[0] in PLAIN
    return all(get_origin(x) is Literal or _bare(x) in PLAIN for x in _options(kind))


def _bare(kind: Any) -> Any:
    """Return a type without what else must hold, as int of pydantic's PositiveInt."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind
