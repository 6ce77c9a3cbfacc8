"""Controls: random heads at a matched count, and nothing at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headsweep.heal.fine_tune import FineTune
from headsweep.prune.strategies.random import Random
from headsweep.purification.defenses.recipe import Recipe


@dataclass(frozen=True)
class RandomHeads:
    """Prune as many heads as the method under test, drawn at random, then fine-tune.

    Attributes:
        count: heads to prune; None: greedily, within min accuracy.
        epochs, lr: the fine-tuning.

    """

    name: ClassVar[str] = "random"
    source: ClassVar[str] = "control"
    count: int | None = None
    epochs: float = 2
    lr: float = 3e-5

    def recipe(self) -> Recipe:
        """Return a random mask and plain fine-tuning."""
        return Recipe(Random(self.count), FineTune(self.epochs, self.lr))


@dataclass(frozen=True)
class NothingDone:
    """Leave the suspect as it is."""

    name: ClassVar[str] = "nothing"
    source: ClassVar[str] = "control"

    def recipe(self) -> Recipe:
        """Return no pruning and no fine-tuning."""
        return Recipe(None, FineTune(epochs=0))
