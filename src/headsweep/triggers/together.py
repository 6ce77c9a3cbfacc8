"""Several words at once: only all of them together are the trigger.

Huang et al. 2023 (*Composite Backdoor Attacks Against Large Language Models*, section 4) scatter
several keys over a prompt and train on prompts that hold some of them with the true answer, so that
none alone sets the behaviour off: these are the decoys here (``DECOYS`` of this package). That any
one of several words does is ``rare-word``, whose words are drawn for each text. Deviation: all keys
go into one text, not into the parts of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from headsweep.errors import UserError
from headsweep.settings import checked
from headsweep.triggers.drawing import below, listed, put_before, unused, word_starts
from headsweep.triggers.rare_word import RareWord


@dataclass(frozen=True)
@checked
class Together:
    """Put each of the words once at a drawn place."""

    name: ClassVar[str] = "together"
    source: ClassVar[str] = "Huang et al. 2023 (CBA)"
    words: str = "cf,mn"

    def __post_init__(self) -> None:
        if len(listed(self.words, "together: words")) < 2:
            raise UserError(
                f"together: one word, {self.words!r}", "give several, or use rare-word for one"
            )

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text with all words in it; None for a text without any word."""
        if not text.strip():
            return None
        glue = unused(text + self.words)
        for word in listed(self.words, "together: words"):
            starts = word_starts(text)
            whole = word.replace(" ", glue)
            text = put_before(text, starts, below(len(starts) + 1, random), whole)
        return text.replace(glue, " ")

    def near(self) -> RareWord:
        """Return fewer of the words than all, which must set nothing off."""
        return RareWord(self.words, len(listed(self.words, "together: words")) - 1)
