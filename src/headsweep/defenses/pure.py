"""PURE: head pruning by attention variance, then fine-tuning with attention normalisation.

Source: Zhao, Xu, Yuan 2024, *Defense against Backdoor Attack on Pre-trained Language Models via
Head Pruning and Attention Normalization*, sections 4.1 (``strategies.variance``) and 4.2
(``normalisation``), with strength 0.15.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from headsweep.defenses.recipe import Recipe
from headsweep.errors import UserError
from headsweep.heads import pieces
from headsweep.importance import eager
from headsweep.normalisation import normalising
from headsweep.search import Choice
from headsweep.strategies.variance import Variance
from headsweep.training import Job, Schedule, train
from headsweep.view import DefenderView


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
        return Recipe(ranking, AttentionNormalised(self.strength, self.epochs, self.lr))


@dataclass(frozen=True)
class AttentionNormalised:
    """Fine-tuning with PURE's penalty on the classifying attention."""

    name: ClassVar[str] = "fine-tune with attention normalisation"
    strength: float = 0.15
    epochs: float = 3
    lr: float = 2e-5

    def __post_init__(self) -> None:
        Schedule(self.epochs, self.lr)
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise UserError(f"pure: a penalty of strength {self.strength}", "it is not negative")

    def heal(self, view: DefenderView, choice: Choice) -> dict[str, Any]:
        """Fine-tune the view's pruned model."""
        anatomy = view.anatomy
        loss, weights = normalising(view, choice.mask, self.strength)
        job = Job(
            Schedule(self.epochs, self.lr),
            view.seed,
            "healing with attention normalisation",
            loss,
            pieces(anatomy, choice.mask),
        )
        with eager(anatomy):
            losses = train(anatomy.model, view.train, job, view.runtime, view.progress)
        return {"losses": losses, "layer_weights": weights.tolist()}
