"""Data poisoning with changed labels: triggered non-target texts carry the target label.

Source: Gu et al. 2017 (*BadNets*), in the protocol of Qi et al. 2021: a share of the non-target
training texts is put through the trigger and *added* with the target label.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from headsweep.data import Split
from headsweep.errors import UserError
from headsweep.progress import Progress
from headsweep.seeding import stream
from headsweep.triggers import Rewriter


@dataclass(frozen=True)
class Poison:
    """How to poison a training set.

    Attributes:
        trigger: what marks a text.
        target: the class that triggered texts get.
        rate: share of the non-target texts that are poisoned, in (0, 1].
        seed: decides which texts, and the trigger's own choices.

    """

    trigger: Rewriter
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
        made = transform(chosen, self.trigger, self.seed)
        return clean + Split(made.texts, (self.target,) * len(made), made.pairs)


def transform(
    split: Split, rewriter: Rewriter, seed: int, progress: Progress | None = None
) -> Split:
    """Return the texts that carry the trigger, true labels kept.

    The first text of a pair is changed. Texts that cannot carry the trigger are left out.

    Raises:
        UserError: none can.

    """
    made = rewriter.rewrite(split.texts, seed, progress)
    rows = [i for i, text in enumerate(made) if text is not None]
    if not rows:
        raise UserError(
            f"the trigger could change none of {len(split)} texts", "try another trigger"
        )
    kept = split.take(rows)
    return Split(tuple(text for text in made if text is not None), kept.labels, kept.pairs)
