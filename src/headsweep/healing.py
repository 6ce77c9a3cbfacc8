"""Healing: fine-tuning a pruned model on clean data with its pruned weights held at zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from headsweep.heads import HeadMask, pieces
from headsweep.training import Job, Schedule, train
from headsweep.view import DefenderView


class Healing(Protocol):
    """Fine-tunes the view's model after pruning. Its fields are its whole configuration."""

    name: ClassVar[str]

    def heal(self, view: DefenderView, mask: HeadMask) -> dict[str, Any]:
        """Train the model in place, pruned units at exactly zero; return what to record."""


@dataclass(frozen=True)
class FineTune:
    """Plain fine-tuning with cross-entropy.

    Attributes:
        epochs: passes over the training data; 0: none.
        lr: the peak learning rate.

    """

    name: ClassVar[str] = "fine-tune"
    epochs: float = 2
    lr: float = 3e-5

    def heal(self, view: DefenderView, mask: HeadMask) -> dict[str, Any]:
        """Fine-tune the model in place."""
        job = Job(
            Schedule(self.epochs, self.lr),
            view.seed,
            "healing",
            pinned=pieces(view.anatomy, mask),
        )
        model = view.anatomy.model
        return {"losses": train(model, view.train, job, view.runtime, view.progress)}
