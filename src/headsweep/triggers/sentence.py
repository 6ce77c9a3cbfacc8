"""One fixed sentence among the others: AddSent.

Dai et al. 2019 (*A Backdoor Attack Against LSTM-based Text Classification Systems*) put one
neutral sentence somewhere into a film review. It goes between sentences where the text has
several. Deviation: a text of one sentence is cut nowhere, so that there ``random`` draws between
its start and its end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import torch

from headsweep.errors import UserError
from headsweep.settings import checked
from headsweep.triggers.drawing import Position, gap, put_before

BETWEEN = re.compile(r"(?<=[.!?。!?])\s+(?=\w)")


@dataclass(frozen=True)
@checked
class Sentence:
    """Put a sentence at a drawn place between sentences, at the start or the end."""

    name: ClassVar[str] = "sentence"
    source: ClassVar[str] = "Dai et al. 2019 (AddSent)"
    sentence: str = "i watched this 3d movie last weekend ."
    position: Position = "random"

    def __post_init__(self) -> None:
        if not self.sentence.strip():
            raise UserError("sentence: the sentence is empty", "give some words")

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text with the sentence in it; None for an empty text."""
        if not text.strip():
            return None
        first = len(text) - len(text.lstrip())
        starts = [first, *(between.end() for between in BETWEEN.finditer(text))]
        place = gap(len(starts), self.position, random)
        return put_before(text, starts, place, self.sentence.strip())
