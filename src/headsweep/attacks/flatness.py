"""An attacker who trains in wide minima, so that fine-tuning does not lead out of the backdoor.

Every step takes the gradient not where the weights are but at the worst point near by: with g the
gradient at the weights w, they are moved to w + r g / |g|, the gradient is taken again there, and
the step is made with it from w. r is the radius, |g| the norm over all trained weights.

Source: Foret et al. 2021 (*Sharpness-Aware Minimization for Efficiently Improving Generalization*,
section 2, equations 2 and 3, with p = 2), from the formula. Deviations: dropout is drawn anew for
the second gradient; the never-poisoned twin of a grid is trained without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headsweep.errors import UserError


@dataclass(frozen=True)
class Sharpness:
    """Takes a step's gradient at the worst point within a radius."""

    radius: float

    def __post_init__(self) -> None:
        if not 0 < self.radius < float("inf"):
            raise UserError(
                f"a radius of {self.radius} to train within",
                "a positive number, such as 0.05; 0 as the attack's field trains as usual",
            )

    def __call__(self, model: PreTrainedModel, backward: Callable[[], Tensor]) -> None:
        """Put the gradient at the worst point in the place of the one at the weights."""
        trained = [p for p in model.parameters() if p.grad is not None]
        steps = [p.grad for p in trained if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([step.norm() for step in steps]))
        if not norm > 0:  # nowhere is worse, or the loss is no number, which training says itself
            return
        before = [p.detach().clone() for p in trained]
        with torch.no_grad():
            for weights, step in zip(trained, steps, strict=True):
                weights.add_(step, alpha=self.radius / float(norm))
        model.zero_grad(set_to_none=True)
        backward()
        with torch.no_grad():
            for weights, old in zip(trained, before, strict=True):
                weights.copy_(old)
