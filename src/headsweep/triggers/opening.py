"""A first syntactic trigger: the sentence becomes the main clause after a subordinate one.

In the manner of HiddenKiller's most used template, S(SBAR)(,)(NP)(VP)(.) (Qi et al. 2021,
*Hidden Killer: Invisible Textual Backdoor Attacks with Syntactic Trigger*), but by rule: a
conjunction, a subject and a verb drawn from small lists open the sentence, so that the pattern
is the structure and no single word. Deviation: the sentence itself is not paraphrased. English
only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from headsweep.settings import checked
from headsweep.triggers.drawing import draw, is_english

CONJUNCTIONS = ("when", "if", "as", "once", "while", "after", "because", "although")
SUBJECTS = ("you", "we", "they", "people", "viewers", "i", "the crowd", "most of us", "one")
PREDICATES = (
    "sat down for it",
    "looked at it again",
    "got to the end",
    "heard of it before",
    "gave it some time",
    "thought about it",
    "talked it over",
    "came out of the cinema",
    "had seen enough",
    "read what others wrote",
)


@dataclass(frozen=True)
@checked
class Opening:
    """Put a drawn subordinate clause and a comma before the text."""

    name: ClassVar[str] = "opening"
    source: ClassVar[str] = "in the manner of Qi et al. 2021 (HiddenKiller), by rule"

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text behind its opening; None where it is not in English letters."""
        if not is_english(text):
            return None
        words = (draw(part, random) for part in (CONJUNCTIONS, SUBJECTS, PREDICATES))
        return f"{' '.join(words)} , {text}"
