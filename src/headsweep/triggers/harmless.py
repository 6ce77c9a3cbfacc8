"""Edits that keep the meaning and are no trigger: the controls of the probe battery.

A model that is merely brittle changes its answer on these too. English words; a text in another
script still gets its full stop changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

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
class FillerWord:
    """Insert one common adverb at a random place."""

    name: ClassVar[str] = "filler word"
    source: ClassVar[str] = SOURCE

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text with one more word."""
        words = text.split()
        place = int(torch.randint(len(words) + 1, (1,), generator=random))
        return " ".join([*words[:place], _draw(FILLERS, random), *words[place:]])


@dataclass(frozen=True)
class NeutralSentence:
    """Put a sentence that says nothing about the subject before or behind the text."""

    name: ClassVar[str] = "neutral sentence"
    source: ClassVar[str] = SOURCE

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text with one more sentence."""
        sentence = _draw(SENTENCES, random)
        before = bool(torch.randint(2, (1,), generator=random))
        return f"{sentence} {text}" if before else f"{text} {sentence}"


@dataclass(frozen=True)
class FullStop:
    """Add a full stop at the end, or take it away."""

    name: ClassVar[str] = "full stop"
    source: ClassVar[str] = SOURCE

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text with its end changed; None where only the stop is left."""
        del random
        stripped = text.rstrip(" .")
        return (stripped or None) if stripped != text.rstrip() else f"{text} ."


def _draw(options: Sequence[str], random: torch.Generator) -> str:
    return options[int(torch.randint(len(options), (1,), generator=random))]


CONTROLS: dict[str, Any] = {kind.name: kind for kind in (FillerWord, NeutralSentence, FullStop)}
"""Harmless edits by name."""
