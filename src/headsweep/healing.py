"""Healing: fine-tuning a pruned model on clean data with its pruned weights held at zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, ClassVar, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from headsweep.heads import Anatomy, HeadMask, masked, pieces
from headsweep.predict import Batch
from headsweep.search import Choice
from headsweep.training import Job, Loss, Schedule, cross_entropy, train
from headsweep.view import DefenderView


class Healing(Protocol):
    """Fine-tunes the view's model after pruning. Its fields are its whole configuration."""

    name: ClassVar[str]

    def heal(self, view: DefenderView, choice: Choice) -> dict[str, Any]:
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

    def __post_init__(self) -> None:
        Schedule(self.epochs, self.lr)  # says now what would fail after the search

    def heal(self, view: DefenderView, choice: Choice) -> dict[str, Any]:
        """Fine-tune the model in place; the masks of an ensemble take turns, a batch each."""
        job = Job(
            Schedule(self.epochs, self.lr),
            view.seed,
            "healing",
            in_turn(view.anatomy, choice.members) if choice.members else None,
            pieces(view.anatomy, choice.mask),
        )
        model = view.anatomy.model
        return {"losses": train(model, view.train, job, view.runtime, view.progress)}


def in_turn(anatomy: Anatomy, members: Sequence[HeadMask]) -> Loss:
    """Return the loss under one mask after the other, a batch each."""
    turn = cycle(members)

    def loss(model: PreTrainedModel, batch: Batch) -> Tensor:
        with masked(anatomy, next(turn)):
            return cross_entropy(model, batch)

    return loss
