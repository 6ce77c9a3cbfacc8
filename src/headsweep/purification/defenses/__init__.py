"""Baselines and controls: the same view in, a fine-tuned model out."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from headsweep.purification.defenses.controls import NothingDone, RandomHeads
from headsweep.purification.defenses.fine_pruning import FinePruning
from headsweep.purification.defenses.fine_tuning import FT, FTH, MEFT
from headsweep.purification.defenses.pure import Pure
from headsweep.purification.defenses.recipe import Recipe


class Defense(Protocol):
    """A baseline: which units it prunes how, and how it fine-tunes. Fields configure it."""

    name: ClassVar[str]
    source: ClassVar[str]

    def recipe(self) -> Recipe:
        """Return what the pipeline runs."""


DEFENSES: dict[str, Any] = {
    method.name: method for method in (FT, FTH, MEFT, Pure, FinePruning, RandomHeads, NothingDone)
}
"""Baseline and control classes by name."""

__all__ = ["DEFENSES", "Defense", "Recipe"]
