"""PURE: head pruning by attention variance, then fine-tuning with attention normalisation.

Source: Zhao, Xu, Yuan 2024, *Defense against Backdoor Attack on Pre-trained Language Models via
Head Pruning and Attention Normalization*, sections 4.1 and 4.2. The second step adds to the
cross-entropy

    strength * sum over layers c_l * sum over heads sqrt(sum over batch and tokens A[CLS]^2)

with strength 0.15 and c_l the min-max of the normalised inverse attention variance of layer l,
measured on the pruned model, over the heads that it has left. Decoders: the last token's row of
attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headsweep.defenses.recipe import Recipe
from headsweep.errors import UserError
from headsweep.heads import HeadMask, pieces
from headsweep.importance import attention_variance, eager, read_rows
from headsweep.predict import Batch
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
        variance = attention_variance(view, 500)
        keep = [torch.tensor(row) for row in choice.mask.heads]
        weights = layer_weights(variance, choice.mask, view)

        def loss(model: PreTrainedModel, batch: Batch) -> Tensor:
            found = model(**batch.inputs, output_attentions=True)
            ce = torch.nn.functional.cross_entropy(found.logits.float(), batch.labels)
            rows = read_rows(anatomy, batch, tuple(found.attentions))
            norms = [
                row[:, kept].float().square().sum((0, 2)).clamp_min(1e-12).sqrt().sum()
                for row, kept in zip(rows, keep, strict=True)
            ]
            penalty = sum(c * n for c, n in zip(weights.tolist(), norms, strict=True))
            return ce + self.strength * torch.as_tensor(penalty)

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


def layer_weights(variance: Tensor, mask: HeadMask, view: DefenderView) -> Tensor:
    """Return c_l, [layer] in 0 to 1: min-max of the normalised inverse variance of each layer.

    A layer's variance is the mean over the heads that stay: a pruned head attends to all tokens
    alike, and its variance of zero would say nothing about the layer.
    """
    rows = zip(view.layout.split(variance), mask.heads, strict=True)
    means = torch.stack([part[torch.tensor(keep)].mean() for part, keep in rows])
    inverse = 1 / means.clamp_min(1e-12)
    share = inverse / inverse.sum()
    spread = share.max() - share.min()
    if spread <= 0:
        return torch.ones_like(share)
    scaled: Tensor = (share - share.min()) / spread
    return scaled
