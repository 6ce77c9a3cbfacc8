"""Errors that a user can act on: what is wrong, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import TypeVar

from headsweep.foreign import one_line

T = TypeVar("T")
LONGEST, MOST = 60, 20  # characters of a value, and values, that a message shows


class UserError(Exception):
    """A mistake of the user: one line on what is wrong and, where known, one on the fix."""

    def __init__(self, what: str, fix: str = "") -> None:
        what, fix = one_line(what), one_line(fix)  # a name of others must not begin a line
        super().__init__(f"{what}\n  fix: {fix}" if fix else what)
        self.what = what
        self.fix = fix


class MissingExtra(UserError):  # noqa: N818 - a mistake like the others
    """An optional package is not installed, or cannot be loaded (``error`` says why)."""

    def __init__(self, what: str, extra: str, error: ImportError | None = None) -> None:
        there = error is not None and not isinstance(error, ModuleNotFoundError)
        fault = f"cannot be loaded ({error})" if there else "is missing"
        super().__init__(
            f"{what}: an optional package {fault}",
            f"pip install {'--upgrade --force-reinstall ' * there}'headsweep[{extra}]'",
        )


class ShortOfMemory(UserError):  # noqa: N818 - a mistake like the others
    """What is asked for takes more memory than is free now: another time it may fit."""


class Outcome(Exception):  # noqa: N818 - no mistake
    """It was done right and came to nothing, which a command says with exit code 1."""


class NothingPruned(Outcome):
    """Nothing could be removed within the bound on accuracy; says what was tried."""


class BoundMissed(Outcome):
    """A model in another form loses more accuracy than allowed."""


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return a text as one line that a message can hold."""
    line = " ".join(text[: 4 * longest].split())
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def shown(value: object) -> str:
    """Return a value as a message shows it: as Python writes it, cut where it is long."""
    return shortened(repr(value[: 4 * LONGEST] if isinstance(value, str) else value))


def shown_all(names: Collection[str]) -> str:
    """Return names with commas between, each cut where it is long, and the count of many."""
    first = ", ".join(shortened(name) for _, name in zip(range(MOST), names, strict=False))
    return first if len(names) <= MOST else f"{first}, ... ({len(names)} in all)"


def lookup(name: str, table: Mapping[str, T], kind: str) -> T:
    """Return ``table[name]``; raise UserError with a suggestion when it is not there."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    guess = f"did you mean '{near[0]}'? " if near else ""
    raise UserError(f"unknown {kind} '{name}'", f"{guess}known: {', '.join(sorted(table))}")
