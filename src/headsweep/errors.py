"""Errors that a user can act on: what is wrong, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """A mistake of the user: one line on what is wrong and, where known, one on the fix."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}\n  fix: {fix}" if fix else what)
        self.what = what
        self.fix = fix


class MissingExtra(UserError):  # noqa: N818 - a mistake like the others
    """An optional package is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what}: an optional package is missing", f"pip install 'headsweep[{extra}]'"
        )


class NothingPruned(Exception):  # noqa: N818 - an outcome, not a mistake
    """No head could be removed within the bound on accuracy; says what was tried."""


def lookup(name: str, table: Mapping[str, T], kind: str) -> T:
    """Return ``table[name]``; raise UserError with a suggestion when it is not there."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    guess = f"did you mean '{near[0]}'? " if near else ""
    raise UserError(f"unknown {kind} '{name}'", f"{guess}known: {', '.join(sorted(table))}")
