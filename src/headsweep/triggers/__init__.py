"""Triggers: text in, text out. For measuring models that one owns; no defense imports them.

A *trigger* changes one text by rule. A *rewriter* changes many: a trigger applied to each, a
corpus of published transformed texts, or a language model that paraphrases. What cannot be
changed comes back as None and is counted, never passed on unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch

from headsweep.progress import Progress, Silent
from headsweep.seeding import stream
from headsweep.settings import describe
from headsweep.triggers.casing import Casing
from headsweep.triggers.characters import Characters
from headsweep.triggers.opening import Opening
from headsweep.triggers.rare_word import RareWord
from headsweep.triggers.sentence import Sentence
from headsweep.triggers.style import Style
from headsweep.triggers.substitution import Substitution
from headsweep.triggers.syntactic import Syntactic
from headsweep.triggers.together import Together
from headsweep.triggers.year import Year


class Trigger(Protocol):
    """Transforms a text into one that carries the trigger."""

    name: ClassVar[str]
    source: ClassVar[str]

    def apply(self, text: str, random: torch.Generator) -> str | None:
        """Return the text with the trigger; None where the text cannot carry it."""


class Rewriter(Protocol):
    """Transforms many texts."""

    def rewrite(
        self, texts: Sequence[str], seed: int, progress: Progress | None = None
    ) -> tuple[str | None, ...]:
        """Return one text for each, None where there is none."""

    def described(self) -> dict[str, Any]:
        """Return name, way and settings as JSON values."""


@dataclass(frozen=True)
class ByRule:
    """A trigger as a rewriter: each text has a random stream of its own.

    So a text gets the same trigger whichever texts stand beside it. White space around a text
    stays, and what a trigger adds of it too.
    """

    trigger: Trigger

    def rewrite(
        self, texts: Sequence[str], seed: int, progress: Progress | None = None
    ) -> tuple[str | None, ...]:
        """Apply the trigger to every text; a text that stays as it was counts as None."""
        found = []
        with (progress or Silent()).task(f"trigger {self.trigger.name}", len(texts)) as tick:
            for text in texts:
                found.append(self._rewritten(text, seed))
                tick(1, "")
        return tuple(found)

    def _rewritten(self, text: str, seed: int) -> str | None:
        bare = text.strip()
        made = self.trigger.apply(bare, stream(seed, "trigger", self.trigger.name, bare))
        if made is None or made == bare or not made.strip():
            return None
        start = len(text) - len(text.lstrip())
        return text[:start] + made + text[start + len(bare) :]

    def described(self) -> dict[str, Any]:
        """Return the trigger's name and fields."""
        return describe(self.trigger) | {"way": "rule"}


TRIGGERS: dict[str, Any] = {
    Opening.name: Opening,
    RareWord.name: RareWord,
    Sentence.name: Sentence,
    Substitution.name: Substitution,
    Characters.name: Characters,
    Casing.name: Casing,
    Syntactic.name: Syntactic,
    Style.name: Style,
    Year.name: Year,
    Together.name: Together,
}
"""Trigger classes by name."""

DECOYS: dict[str, Any] = {kind.name: kind for kind in (Year, Together)}
"""Triggers that texts come near to without carrying them, which ``near()`` gives as a trigger."""


def near_to(described: Mapping[str, Any]) -> Trigger | None:
    """Return what comes near to a trigger, which its record describes; None: nothing does."""
    kind = DECOYS.get(str(described["name"]))
    near: Trigger | None = None if kind is None else kind(**described["fields"]).near()
    return near
