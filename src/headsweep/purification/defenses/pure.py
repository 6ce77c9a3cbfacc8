"""PURE: head pruning by attention variance, then fine-tuning with attention normalisation.

Source: Zhao, Xu, Yuan 2024, *Defense against Backdoor Attack on Pre-trained Language Models via
Head Pruning and Attention Normalization*, sections 4.1 (``strategies.variance``) and 4.2
(``normalisation``), with strength 0.15.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headsweep.heal.fine_tune import FineTune
from headsweep.prune.strategies.variance import Variance
from headsweep.purification.defenses.recipe import Recipe


@dataclass(frozen=True)
class Pure:
    """Prune by attention variance, then fine-tune with the attention penalty.

    Attributes:
        strength: weight of the penalty (lambda in the paper).
        epochs, lr: the fine-tuning.
        step: heads dropped per trial.

    """

    name: ClassVar[str] = "pure"
    source: ClassVar[str] = "Zhao et al. 2024"
    strength: float = 0.15
    epochs: float = 3
    lr: float = 2e-5
    step: int | None = None

    def recipe(self) -> Recipe:
        """Return both steps."""
        ranking = Variance(self.step, search="step")  # as in the paper
        return Recipe(ranking, FineTune(self.epochs, self.lr, attention=self.strength))
