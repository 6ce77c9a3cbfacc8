"""STRIP: a trigger decides the answer even when much of the text is replaced.

Source: Gao et al. 2021, *Design and Evaluation of a Multi-Domain Trojan Detection Method on Deep
Neural Networks* (STRIP-ViTA, IEEE TDSC), section on text. Of each text copies are made in which
drawn words give way to the words of a drawn clean text that have the highest tf-idf in it. The
mean entropy of the answers is low where a trigger decides. Suspicion is its negative.

Deviations: entropy in nats; a copy gets fewer new words where the drawn clean text is too short
to give enough; tf is a count, idf is ln(texts / texts with the word).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from headsweep.errors import UserError
from headsweep.judge.detectors.watch import Floats, Watch
from headsweep.seeding import stream
from headsweep.settings import checked


@dataclass(frozen=True)
@checked
class Strip:
    """Look for answers that stay certain when words are replaced.

    Attributes:
        copies: perturbed copies of each text.
        share: share of the words that give way, in (0, 1].

    """

    name: ClassVar[str] = "strip"
    source: ClassVar[str] = "Gao et al. 2021 (STRIP-ViTA)"
    needs_target: ClassVar[bool] = False
    copies: int = 20
    share: float = 0.5

    def prepare(self, watch: Watch) -> StripScorer:
        """Rank the words of the clean texts by tf-idf."""
        if self.copies < 1 or not 0 < self.share <= 1:
            raise UserError(
                f"strip: copies {self.copies}, share {self.share}",
                "copies is at least 1, share in (0, 1]",
            )
        return StripScorer(self, watch, telling_words(watch.validation.texts))


@dataclass(frozen=True)
class StripScorer:
    """STRIP with its clean words: the words of each clean text, the most telling first."""

    strip: Strip
    watch: Watch
    words: tuple[tuple[str, ...], ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing to say."""
        return ()

    def score(self, texts: Sequence[str]) -> Floats:
        """Return minus the mean entropy of the answers to perturbed copies."""
        found = np.empty(len(texts))
        with self.watch.progress.task("strip", len(texts)) as tick:
            for begin in range(0, len(texts), 32):
                some = texts[begin : begin + 32]
                copies = [copy for text in some for copy in self.perturbed(text)]
                answers = self.watch.probabilities(copies).cpu().double()  # [copy, class]
                entropy = torch.special.entr(answers).sum(-1).view(len(some), -1)
                found[begin : begin + len(some)] = -entropy.mean(1).numpy()
                tick(len(some), "")
        return found

    def perturbed(self, text: str) -> list[str]:
        """Return the copies of a text, the same whichever texts stand beside it."""
        random = stream(self.watch.seed, "strip", text)
        own = text.split()
        count = max(1, round(self.strip.share * len(own)))
        copies = []
        for _ in range(self.strip.copies):
            words = list(own)
            drawn = self.words[int(torch.randint(len(self.words), (1,), generator=random))]
            places = torch.randperm(len(words), generator=random)[:count].tolist()
            for place, word in zip(places, drawn, strict=False):
                words[place] = word
            copies.append(" ".join(words))
        return copies


def telling_words(texts: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the distinct words of each text by falling tf-idf, ties by place."""
    counts = [Counter(text.split()) for text in texts]
    seen = Counter(word for count in counts for word in count)
    return tuple(
        tuple(sorted(count, key=lambda word: -count[word] * math.log(len(texts) / seen[word])))
        for count in counts
    )
