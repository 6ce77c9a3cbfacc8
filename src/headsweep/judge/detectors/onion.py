"""ONION: a word whose removal makes the text much more likely is suspicious.

Source: Qi et al. 2021, *ONION: A Simple and Effective Defense Against Textual Backdoor Attacks*
(EMNLP). The suspicion of a word is the perplexity of the text minus that of the text without the
word, under a language model that has nothing to do with the suspect.

Deviations: the paper only removes suspicious words (words above a threshold, tuned on clean
validation texts); here a text also has a score, that of its most suspicious word, and one
threshold serves both. The language model is any causal one (the paper: GPT-2). A token that
begins a text stands in front, so that the first word is judged too. Words are split at white
space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from headsweep.errors import UserError
from headsweep.judge.detectors.watch import Floats, Watch
from headsweep.model.language import (
    LanguageModel,
    encoded_for_reading,
    load_language_model,
    read_losses,
)
from headsweep.settings import checked

TOKENS = 1536  # of a batch: the language model's answers take vocabulary x tokens of memory


@dataclass(frozen=True)
@checked
class Onion:
    """Look for a word whose removal lowers the text's perplexity.

    Attributes:
        lm: a causal language model: a folder, a name on the Hub, or smollm2 (packaged).
        max_words: words of a text that are tried; the rest stays and is read only as context.

    """

    name: ClassVar[str] = "onion"
    source: ClassVar[str] = "Qi et al. 2021 (EMNLP)"
    needs_target: ClassVar[bool] = False
    lm: str = "smollm2"
    max_words: int = 100

    def prepare(self, watch: Watch) -> OnionScorer:
        """Load the language model; the suspect is not looked at."""
        if self.max_words < 1:
            raise UserError(f"onion: max_words {self.max_words}", "it must be at least 1")
        return OnionScorer(load_language_model(self.lm, watch.runtime), self.max_words, watch)


@dataclass(frozen=True)
class OnionScorer:
    """ONION with its language model. What it has read it remembers."""

    language: LanguageModel
    max_words: int
    watch: Watch
    known: dict[str, Floats] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """Say how many texts were too long to try every word."""
        longer = sum(len(text.split()) > self.max_words for text in self.known)
        what = f"of {longer} texts only the first {self.max_words} words were tried (max_words)"
        return (what,) if longer else ()

    def score(self, texts: Sequence[str]) -> Floats:
        """Return the suspicion of each text's most suspicious word; 0 for a text of one word."""
        self._read(texts)
        return np.array([max(self.known[text], default=0.0) for text in texts], dtype=np.float64)

    def clean(self, texts: Sequence[str], threshold: float) -> tuple[str, ...]:
        """Return the texts without the words above the threshold; never an empty text."""
        self._read(texts)
        made = []
        for text in texts:
            words, drops = text.split(), self.known[text]
            away = {i for i, drop in enumerate(drops) if drop > threshold}
            left = [word for i, word in enumerate(words) if i not in away]
            made.append(" ".join(left) if away and left else text)
        return tuple(made)

    def _read(self, texts: Sequence[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if not new:
            return
        variants: dict[str, list[int]] = {}
        for text in new:
            for variant in (" ".join(text.split()), *_without_each(text, self.max_words)):
                variants.setdefault(variant, encoded_for_reading(self.language, variant))
        losses = self._losses(variants)
        for text in new:
            whole = np.exp(losses[" ".join(text.split())])
            rest = [np.exp(losses[v]) for v in _without_each(text, self.max_words)]
            self.known[text] = whole - np.array(rest, dtype=np.float64)

    def _losses(self, variants: dict[str, list[int]]) -> dict[str, float]:
        order = sorted(variants, key=lambda text: len(variants[text]))
        found: dict[str, float] = {}
        with self.watch.progress.task("onion: reading", len(order)) as tick:
            while len(found) < len(order):
                rows = order[len(found) :]
                size = 1
                while size < len(rows) and (size + 1) * len(variants[rows[size]]) <= TOKENS:
                    size += 1
                losses = read_losses(self.language, [variants[row] for row in rows[:size]])
                found |= dict(zip(rows[:size], losses.tolist(), strict=True))
                tick(size, "")
        return found


def _without_each(text: str, most: int) -> list[str]:
    """Return the text without its first word, its second, ...; nothing for a single word."""
    words = text.split()
    if len(words) < 2:
        return []
    return [" ".join(words[:i] + words[i + 1 :]) for i in range(min(most, len(words)))]
