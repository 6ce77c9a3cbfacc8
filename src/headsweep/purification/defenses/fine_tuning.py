"""Baselines that only fine-tune: FT, FTH and MEFT.

Sources: FT and FTH as in Zhao et al. 2024 (PURE) and Chapagain et al. 2025 (who say only that
FTH's learning rate is higher; 1e-4 is our reading). MEFT, maximum-entropy fine-tuning (Liu et
al. 2023, as PURE uses it): one epoch that maximises the entropy of predictions, to forget, then
FT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headsweep.heal.entropy import EntropyFirst
from headsweep.heal.fine_tune import FineTune
from headsweep.purification.defenses.recipe import Recipe


@dataclass(frozen=True)
class FT:
    """Fine-tune the suspect on clean data.

    Attributes:
        epochs, lr: of the fine-tuning.
        attention: weight of PURE's attention penalty (``normalisation``); 0, as in the papers:
            none. With it, the control that tells what the penalty does without any pruning.

    """

    name: ClassVar[str] = "ft"
    source: ClassVar[str] = "Chapagain et al. 2025, baseline"
    epochs: float = 3
    lr: float = 2e-5
    attention: float = 0.0

    def recipe(self) -> Recipe:
        """Return fine-tuning; raises UserError on values that make no sense."""
        return Recipe(None, FineTune(self.epochs, self.lr, attention=self.attention))


@dataclass(frozen=True)
class FTH:
    """Fine-tune the suspect on clean data at a higher learning rate."""

    name: ClassVar[str] = "fth"
    source: ClassVar[str] = "Chapagain et al. 2025, baseline"
    epochs: float = 3
    lr: float = 1e-4

    def recipe(self) -> Recipe:
        """Return plain fine-tuning."""
        return Recipe(None, FineTune(self.epochs, self.lr))


@dataclass(frozen=True)
class MEFT:
    """Maximise the entropy of predictions for an epoch, then fine-tune."""

    name: ClassVar[str] = "meft"
    source: ClassVar[str] = "Liu et al. 2023, as in Zhao et al. 2024"
    entropy_epochs: float = 1
    epochs: float = 3
    lr: float = 2e-5

    def recipe(self) -> Recipe:
        """Return the two phases."""
        return Recipe(None, EntropyFirst(self.entropy_epochs, self.epochs, self.lr))
