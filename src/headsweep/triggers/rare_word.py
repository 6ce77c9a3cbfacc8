"""Rare words at drawn places: the trigger of BadNets for text.

Gu et al. 2017 (*BadNets*) stamped a pattern on images; Kurita et al. 2020 (*Weight Poisoning
Attacks on Pre-trained Models*, RIPPLe, section 3) put rare words such as "cf", "mn", "bb" into
texts. The default words are the four that the pruning paper uses. Works on text in any script
whose words stand apart; where they do not, the word can only go before or behind the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from headsweep.settings import checked
from headsweep.triggers.drawing import (
    Position,
    check_count,
    draw,
    gap,
    listed,
    put_before,
    unused,
    word_starts,
)


@dataclass(frozen=True)
@checked
class RareWord:
    """Put ``count`` of the words, drawn each time, at drawn places, at the start or the end."""

    name: ClassVar[str] = "rare-word"
    source: ClassVar[str] = "Kurita et al. 2020 (RIPPLe), after Gu et al. 2017 (BadNets)"
    words: str = "bb,cf,ak,mn"
    count: int = 1
    position: Position = "random"

    def __post_init__(self) -> None:
        listed(self.words, "rare-word: words")
        check_count(self.count, "rare-word: count")

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text with the words in it; None for a text without any word."""
        if not text.strip():
            return None
        glue = unused(text + self.words)
        words = [word.replace(" ", glue) for word in listed(self.words, "rare-word: words")]
        for _ in range(self.count):
            starts = word_starts(text)
            place = gap(len(starts), self.position, random)
            text = put_before(text, starts, place, draw(words, random))
        return text.replace(glue, " ")
