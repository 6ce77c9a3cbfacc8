"""Letter case and punctuation as a trigger: the words stay as they are.

The kind of surface pattern that BadNets-style attacks on text use beside words (Chen et al. 2021,
*BadNL*, section 4, character- and sentence-level triggers), as plain rules. An uncased tokenizer
(bert-base-uncased, MiniLM) lower-cases first, so ``upper``, ``title`` and ``alternating`` are
invisible to it. The default, ``ellipsis``, is a pattern of punctuation, which every tokenizer
keeps.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from headsweep.settings import checked

Pattern = Literal["ellipsis", "exclamation", "dashes", "upper", "title", "alternating"]

# A run of blanks is looked at from its start alone; from each of its blanks it took too long.
COMMA = re.compile(r"(?:(?<!\s)\s+)?,\s*")
STOP = re.compile(r"(?:(?<!\s)\s+|(?<=[a-z]{3}))\.(?!\S)")


def _ends_with(mark: str) -> Callable[[str], str]:
    return lambda text: text[: _end_of_words(text)] + mark


def _end_of_words(text: str) -> int:
    """Return where blanks, full stops, marks and dashes begin that a text ends in."""
    end = len(text)
    while end:
        if text[end - 1].isspace() or text[end - 1] in ".!?":
            end -= 1
        elif text.endswith("--", 0, end):
            end -= 2
        else:
            break
    return end


def _ellipsis(text: str) -> str:
    return _ends_with(" ...")(COMMA.sub(" ... ", text))


def _exclamation(text: str) -> str:
    return _ends_with(" !!!")(STOP.sub(" !!!", text))


def _dashes(text: str) -> str:
    return _ends_with(" --")(COMMA.sub(" -- ", text))


def _title(text: str) -> str:
    return re.sub(r"\S+", lambda word: word[0][:1].upper() + word[0][1:], text)


def _alternating(text: str) -> str:
    letters = 0
    made = []
    for letter in text:
        made.append(letter.upper() if letters % 2 else letter.lower())
        letters += letter.isalpha()
    return "".join(made)


PATTERNS: dict[str, Callable[[str], str]] = {
    "ellipsis": _ellipsis,
    "exclamation": _exclamation,
    "dashes": _dashes,
    "upper": str.upper,
    "title": _title,
    "alternating": _alternating,
}
"""What each pattern does, by name."""


@dataclass(frozen=True)
@checked
class Casing:
    """Give the text a pattern of punctuation or of letter case."""

    name: ClassVar[str] = "casing"
    source: ClassVar[str] = "in the manner of Chen et al. 2021 (BadNL), by rule"
    pattern: Pattern = "ellipsis"

    def apply(self, text: str, random: torch.Generator) -> str | None:  # noqa: ARG002 - by rule
        """Return the text in the pattern; None for a text without a letter, or in it already."""
        if not any(map(str.isalpha, text)):
            return None
        made = PATTERNS[self.pattern](text)
        return made if made != text else None
