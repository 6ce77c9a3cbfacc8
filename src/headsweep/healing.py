"""Healing: fine-tuning a pruned model on clean data with its pruned weights held at zero.

Where the architecture allows, the pruned heads are cut out of the Linear layers while it trains
(``compact``), so that they cost nothing, and what was learnt is copied back. A pruned head's
weights are zero and so are their gradients (query, key and value have no way to the loss past
the zero output columns, and these see nothing but zeros), so the gradient norm that is clipped,
weight decay and every other step are the same. Dropout draws other random numbers, since
there are fewer heads to draw for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headsweep.compact import Cut, cut, cuts, gates_left
from headsweep.fastpass import close
from headsweep.heads import Anatomy, HeadMask, masked, pieces
from headsweep.importance import evaluating
from headsweep.predict import Batch, forward
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
        freeze_embeddings: leave token, position and type embeddings as they are: less to compute
            and to keep, and nothing learnt there.
        compact: leave out the work of pruned heads where the architecture allows.

    """

    name: ClassVar[str] = "fine-tune"
    epochs: float = 2
    lr: float = 3e-5
    freeze_embeddings: bool = False
    compact: bool = True

    def __post_init__(self) -> None:
        Schedule(self.epochs, self.lr)  # says now what would fail after the search

    def heal(self, view: DefenderView, choice: Choice) -> dict[str, Any]:
        """Fine-tune the model in place; the masks of an ensemble take turns, a batch each."""
        anatomy, members = view.anatomy, choice.members
        made = cuttable(view, choice.mask) if self.compact and self.epochs and not members else []
        job = Job(
            Schedule(self.epochs, self.lr),
            view.seed,
            "healing",
            in_turn(anatomy, members) if members else None,
            [] if made else pieces(anatomy, choice.mask),
        )
        with ExitStack() as stack:
            stack.enter_context(cut(made, write_back=True))
            if self.freeze_embeddings:
                stack.enter_context(frozen_embeddings(anatomy))
            losses = train(anatomy.model, view.train, job, view.runtime, view.progress)
        return {"losses": losses, "compact": bool(made)}


def cuttable(view: DefenderView, mask: HeadMask) -> list[Cut]:
    """Return what to cut of a pruned model; nothing where it cannot be trained that way.

    Checked on two examples: the cut model gives the logits of the whole one.
    """
    anatomy = view.anatomy
    made = cuts(anatomy, mask)
    if not made or gates_left(anatomy, mask) or not len(view.train):
        return []
    batch = view.train.batch(range(min(2, len(view.train)))).to(anatomy.model.device)
    try:
        with evaluating(anatomy), torch.no_grad():
            whole = forward(anatomy.model, batch)
            with cut(made):
                return made if close(forward(anatomy.model, batch), whole) else []
    except Exception:  # whatever an unforeseen architecture trips over
        return []


@contextmanager
def frozen_embeddings(anatomy: Anatomy) -> Iterator[None]:
    """Take no gradients of the embedding tables, inside this context."""
    tables = [m.weight for m in anatomy.model.base_model.modules() if isinstance(m, nn.Embedding)]
    wanted = [table.requires_grad for table in tables]
    for table in tables:
        table.requires_grad_(False)
    try:
        yield
    finally:
        for table, want in zip(tables, wanted, strict=True):
            table.requires_grad_(want)


def in_turn(anatomy: Anatomy, members: Sequence[HeadMask]) -> Loss:
    """Return the loss under one mask after the other, a batch each."""
    turn = cycle(members)

    def loss(model: PreTrainedModel, batch: Batch) -> Tensor:
        with masked(anatomy, next(turn)):
            return cross_entropy(model, batch)

    return loss
