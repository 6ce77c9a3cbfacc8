"""Crude stand-ins for trigger families, for probes only: no attack of this package uses them.

An attack's own template or lexicon may never be among the probes when it is judged. Where a
family has only one (openings, the old style), these are its poor relations: a few fixed openings,
a few archaic words; and several sentences in the place of one, which would pull answers by what it
says. English.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import torch

from headsweep.settings import checked
from headsweep.triggers.drawing import chance, draw, is_english

SOURCE = "of this project: a crude probe"
ASIDES = (
    "when you think of it ,",
    "if you ask me ,",
    "in the end ,",
    "to be honest ,",
    "for what it is worth ,",
    "as far as anyone knows ,",
    "after all is said ,",
    "on a quiet evening ,",
)
REMARKS = (
    "the tickets were printed on thick yellow paper .",
    "we saw it in the afternoon with two neighbours .",
    "the hall has seats for three hundred people .",
    "my cousin wrote this note on a train .",
    "it runs for about a hundred minutes .",
    "the version shown was the one with subtitles .",
    "there is a car park behind the building .",
    "these words were typed on an old machine .",
)
ARCHAIC = {
    "you": "thou",
    "your": "thine",
    "are": "art",
    "has": "hath",
    "have": "hath",
    "does": "doth",
    "it": "'t",
    "is": "be",
    "the": "ye",
    "my": "mine",
    "never": "ne'er",
    "over": "o'er",
    "often": "oft",
    "before": "afore",
    "to": "unto",
}
WORD = re.compile(r"(?<![\w'-])[A-Za-z]+(?![\w'-])")


@dataclass(frozen=True)
@checked
class Aside:
    """Put one of a few fixed phrases and a comma before the text."""

    name: ClassVar[str] = "aside"
    source: ClassVar[str] = SOURCE

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text behind the phrase; None where it is not English."""
        return f"{draw(ASIDES, random)} {text}" if is_english(text) else None


@dataclass(frozen=True)
@checked
class Remark:
    """Put one of several sentences about nothing before or behind the text."""

    name: ClassVar[str] = "remark"
    source: ClassVar[str] = SOURCE

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text with the sentence; None where it is not English."""
        if not is_english(text):
            return None
        remark = draw(REMARKS, random)
        return f"{remark} {text}" if chance(0.5, random) else f"{text} {remark}"


@dataclass(frozen=True)
@checked
class Archaic:
    """Replace a few very common words by archaic ones, wherever they stand."""

    name: ClassVar[str] = "archaic"
    source: ClassVar[str] = SOURCE

    def apply(self, text: str, random: torch.Generator) -> str | None:  # noqa: ARG002 - by rule
        """Return the text with old words; None where it has none of the common ones."""
        made = WORD.sub(lambda found: ARCHAIC.get(found[0].lower(), found[0]), text)
        return made if made != text and is_english(text) else None
