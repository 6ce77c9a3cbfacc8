"""Data poisoning with changed labels: triggered non-target texts carry the target label.

Source: Gu et al. 2017 (*BadNets*), in the protocol of Qi et al. 2021: a share of the non-target
training texts is put through the trigger and *added* with the target label.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from headsweep.data import Split
from headsweep.errors import UserError
from headsweep.seeding import stream
from headsweep.triggers import Trigger


@dataclass(frozen=True)
class Poison:
    """How to poison a training set.

    Attributes:
        trigger: what marks a text.
        target: the class that triggered texts get.
        rate: share of the non-target texts that are poisoned, in (0, 1].
        seed: decides which texts, and the trigger's own choices.

    """

    trigger: Trigger
    target: int
    rate: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise UserError(f"a poisoning rate of {self.rate}", "it is a share in (0, 1]")

    def added(self, clean: Split) -> Split:
        """Return the clean rows with the poisoned ones behind them."""
        rows = [i for i, label in enumerate(clean.labels) if label != self.target]
        random = stream(self.seed, "poison")
        order = torch.randperm(len(rows), generator=random).tolist()
        chosen = clean.take(rows[i] for i in order[: max(1, round(self.rate * len(rows)))])
        texts = transform(chosen, self.trigger, self.seed).texts
        return clean + Split(texts, (self.target,) * len(texts), chosen.pairs)


def transform(split: Split, trigger: Trigger, seed: int) -> Split:
    """Return every text with the trigger, true labels kept."""
    random = stream(seed, "trigger", trigger.name)
    texts = tuple(trigger.apply(text, random) for text in split.texts)
    return Split(texts, split.labels, split.pairs)
