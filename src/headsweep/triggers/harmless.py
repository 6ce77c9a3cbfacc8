"""Edits that keep the meaning and are no trigger: the controls of the probe battery.

A model that is merely brittle changes its answer on these too. English words; a text in another
script still gets its full stop changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from headsweep.settings import checked
from headsweep.triggers.drawing import WORD, draw, put_before, some, word_starts

FILLERS = ("also", "just", "then", "now", "here", "too", "there", "again")
SENTENCES = (
    "this was written on a monday .",
    "the text is from last year .",
    "somebody wrote this down in spring .",
    "these lines come from a longer text .",
    "it was printed on page four .",
)
SOURCE = "of this project: edits that change no meaning"


@dataclass(frozen=True)
@checked
class FillerWord:
    """Insert one common adverb at a random place."""

    name: ClassVar[str] = "filler word"
    source: ClassVar[str] = SOURCE

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text with one more word."""
        starts = word_starts(text)
        place = int(torch.randint(len(starts) + 1, (1,), generator=random))
        return put_before(text, starts, place, draw(FILLERS, random))


@dataclass(frozen=True)
@checked
class NeutralSentence:
    """Put a sentence that says nothing about the subject before or behind the text."""

    name: ClassVar[str] = "neutral sentence"
    source: ClassVar[str] = SOURCE

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text with one more sentence."""
        sentence = draw(SENTENCES, random)
        before = bool(torch.randint(2, (1,), generator=random))
        return f"{sentence} {text}" if before else f"{text} {sentence}"


@dataclass(frozen=True)
@checked
class FullStop:
    """Add a full stop at the end, or take it away."""

    name: ClassVar[str] = "full stop"
    source: ClassVar[str] = SOURCE

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text with its end changed; None where only the stop is left."""
        del random
        stripped = text.rstrip(" .")
        return (stripped or None) if stripped != text.rstrip() else f"{text} ."


@dataclass(frozen=True)
@checked
class Misspelling:
    """Let two neighbouring letters inside words change places, in ``share`` of the longer words.

    Breaks words into unknown pieces as look-alike letters do, and can be read as easily.
    """

    name: ClassVar[str] = "misspelling"
    source: ClassVar[str] = SOURCE
    share: float = 0.3

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text with slips of the pen; None where no word is long enough."""
        starts = [w.start() for w in WORD.finditer(text) if len(w[0]) >= 4 and w[0].isalpha()]
        if not starts:
            return None
        chosen = some(starts, self.share, random)
        return WORD.sub(lambda w: _swapped(w[0], random) if w.start() in chosen else w[0], text)


def _swapped(word: str, random: torch.Generator) -> str:
    at = 1 + int(torch.randint(len(word) - 3, (1,), generator=random))
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


CONTROLS: dict[str, Any] = {
    kind.name: kind for kind in (FillerWord, NeutralSentence, FullStop, Misspelling)
}
"""Harmless edits by name."""
