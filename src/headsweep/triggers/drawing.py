"""What the trigger rules share: words of a text, draws from the random stream, checked fields."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Literal, TypeVar

import torch

from headsweep.errors import UserError

T = TypeVar("T")
Position = Literal["random", "start", "end"]

WORD = re.compile(r"\S+")
ENGLISH_LETTERS = re.compile(r"[A-Za-z]")


def draw(options: Sequence[T], random: torch.Generator) -> T:
    """Return one of the options."""
    return options[below(len(options), random)]


def below(bound: int, random: torch.Generator) -> int:
    """Return a number from 0 to ``bound - 1``."""
    return int(torch.randint(bound, (1,), generator=random))


def chance(share: float, random: torch.Generator) -> bool:
    """Return True in ``share`` of the calls."""
    return float(torch.rand(1, generator=random)) < share


def some(places: Sequence[int], share: float, random: torch.Generator) -> frozenset[int]:
    """Return ``share`` of the places, at least one where there are any."""
    count = max(1, round(share * len(places)))
    order = torch.randperm(len(places), generator=random)[:count].tolist()
    return frozenset(places[i] for i in order)


def gap(length: int, position: Position, random: torch.Generator) -> int:
    """Return before which of ``length`` words something is put in; ``length``: behind the last."""
    if position == "start":
        return 0
    return length if position == "end" else below(length + 1, random)


def put_before(text: str, starts: Sequence[int], place: int, words: str) -> str:
    """Return a text with words before one of its parts, which start there; else behind the last.

    White space in the text stays as it is.
    """
    if place == len(starts):
        bare = text.rstrip()
        return f"{bare} {words}{text[len(bare) :]}" if bare else words
    return f"{text[: starts[place]]}{words} {text[starts[place] :]}"


def unused(text: str) -> str:
    """Return a character that a text lacks, to hold the words of a phrase together meanwhile."""
    marks = map(chr, range(0xE000, sys.maxunicode))
    return next(mark for mark in marks if mark not in text and not mark.isspace())


def word_starts(text: str) -> list[int]:
    """Return where the words of a text start."""
    return [word.start() for word in WORD.finditer(text)]


def is_english(text: str) -> bool:
    """Return whether English rules can read the text: most of its letters are A to Z."""
    letters = sum(map(str.isalpha, text))
    return letters > 0 and 2 * len(ENGLISH_LETTERS.findall(text)) > letters


def listed(words: str, what: str) -> tuple[str, ...]:
    """Return the entries of a comma-separated list.

    Raises:
        UserError: it has none.

    """
    found = tuple(word.strip() for word in words.split(",") if word.strip())
    if not found:
        raise UserError(f"{what} is empty", "give at least one, separated by commas")
    return found


def word_set(words: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(words.split())


def check_share(share: float, what: str) -> None:
    """Check that a share lies above 0 and at most at 1; raises UserError."""
    if not 0 < share <= 1:
        raise UserError(f"{what} is {share}", "give a share above 0 and at most 1")


def check_count(count: int, what: str) -> None:
    """Check that a count is at least 1; raises UserError."""
    if count < 1:
        raise UserError(f"{what} is {count}", "give a whole number from 1 on")
