"""Healing: fine-tuning a pruned model with its pruned weights held at zero.

On clean texts, or on a mix of clean texts and probes with their true labels: a backdoor that
pruning left can come back on clean texts alone, and a probe that keeps its label teaches the
model that the transformation means nothing. Source of the mix: own; close to adversarial training
against a guessed trigger.

Where the architecture allows, the pruned heads are cut out of the Linear layers while it trains
(``compact``), so that they cost nothing, and what was learnt is copied back. A pruned head's
weights are zero and so are their gradients (query, key and value have no way to the loss past
the zero output columns, and these see nothing but zeros), so the gradient norm that is clipped,
weight decay and every other step are the same. Dropout draws other random numbers, since
there are fewer heads to draw for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headsweep.compact import Cut, cut, cuts, gates_left
from headsweep.distillation import following
from headsweep.errors import UserError
from headsweep.fastpass import close
from headsweep.heads import Anatomy, HeadMask, masked, pieces
from headsweep.importance import eager, evaluating
from headsweep.normalisation import normalising
from headsweep.predict import Batch, Encoded, forward
from headsweep.probes import joined, mixed, required
from headsweep.search import Choice
from headsweep.training import (
    Criterion,
    Job,
    Loss,
    Schedule,
    cross_entropy,
    judged_by,
    on_labels,
    train,
)
from headsweep.view import DefenderView

On = Literal["clean", "probes"]


class Healing(Protocol):
    """Fine-tunes the view's model after pruning. Its fields are its whole configuration.

    One that ``follows`` gets a view that knows what the suspect says.
    """

    name: ClassVar[str]

    def heal(self, view: DefenderView, choice: Choice) -> dict[str, Any]:
        """Train the model in place, pruned units at exactly zero; return what to record."""


@dataclass(frozen=True)
class FineTune:
    """Fine-tuning: with cross-entropy, and what is asked for beside it.

    Attributes:
        epochs: passes over the training data; 0: none.
        lr: the peak learning rate.
        on: ``clean``, or ``probes``: a share of the texts is turned into probes, other ones in
            every epoch.
        share: that share.
        consistency: weight of the divergence between the predictions of a probe and of its text
            (Kullback-Leibler, from the text's, which gets no gradient), with ``probes``.
        attention: weight of PURE's penalty on attention that gathers on few tokens
            (``normalisation``; 0.15 in the paper), slower; 0: none; None: as the strategy's own
            healing (``after``), where it has one, else none.
        distill: how much of the loss is that of the suspect's own predictions for the clean texts
            (``distillation``), 0 to 1.
        halvings: how often the pipeline may begin again, from the same weights, at half the
            learning rate, when healing ends below min accuracy: a hot healing forgets more of a
            backdoor, and of the task.
        freeze_embeddings: leave token, position and type embeddings as they are: less to compute
            and to keep, and nothing learnt there.
        compact: leave out the work of pruned heads where the architecture allows.

    """

    name: ClassVar[str] = "fine-tune"
    epochs: float = 2
    lr: float = 3e-5
    on: On = "clean"
    share: float = 0.4
    consistency: float = 0.0
    attention: float | None = None
    distill: float = 0.0
    halvings: int = 0
    freeze_embeddings: bool = False
    compact: bool = True

    def __post_init__(self) -> None:
        Schedule(self.epochs, self.lr)  # says now what would fail after the search
        if self.on not in get_args(On):
            raise UserError(f"cannot heal on '{self.on}'", f"give one of {', '.join(get_args(On))}")
        if not 0 < self.share <= 1:
            raise UserError(f"a share of {self.share} probes", "give a share above 0, at most 1")
        if not 0 <= self.consistency < math.inf:
            raise UserError(f"a consistency weight of {self.consistency}", "give 0 or more")
        if self.consistency and self.on == "clean":
            raise UserError("consistency compares texts with their probes", "heal with probes")
        if self.attention is not None and not 0 <= self.attention < math.inf:
            raise UserError(f"an attention penalty of {self.attention}", "give 0 or more")
        if self.attention and self.consistency:
            raise UserError("attention penalty and consistency do not go together", "choose one")
        if not 0 <= self.distill <= 1:
            raise UserError(f"a weight of distillation of {self.distill}", "give 0 to 1")
        if self.halvings < 0:
            raise UserError(f"{self.halvings} halvings of the learning rate", "give 0 or more")

    def after(self, strategy: object, usual: float | None = None) -> FineTune:
        """Return it as the last healing after a strategy.

        Where it leaves the attention penalty open it gets that of the strategy's own healing, or
        the usual one where there is none; no penalty goes with consistency.
        """
        own = getattr(strategy, "attention", usual)
        if own is None or self.attention is not None or self.consistency:
            return self
        return replace(self, attention=own)

    def cooler(self) -> FineTune | None:
        """Return the healing to try when this one has lost too much; None: there is none."""
        if not (self.halvings and self.epochs):
            return None
        return replace(self, lr=self.lr / 2, halvings=self.halvings - 1)

    @property
    def follows(self) -> bool:
        """True when the view must know what the suspect says of the training texts."""
        return self.distill > 0 and self.epochs > 0

    @property
    def needs_probes(self) -> bool:
        """True when the view must carry probes."""
        return self.on == "probes" and self.epochs > 0

    def heal(self, view: DefenderView, choice: Choice) -> dict[str, Any]:
        """Fine-tune the model in place; the masks of an ensemble take turns, a batch each.

        Raises:
            UserError: it is to heal on probes and the view has none; or with the attention
                penalty, and the model gives no attention weights; or to follow the suspect, and
                nobody has asked it.

        """
        criterion = following(view, self.distill) if self.follows else on_labels
        loss = judged_by(criterion)
        texts, epochs = view.train, self.epochs
        record: dict[str, Any] = {}
        if self.needs_probes:
            texts, turned, copies = self._mix(view)
            if self.consistency:
                loss = consistent(view.train, turned, self.consistency, criterion)
            epochs = self.epochs / copies
            record["probes_seen"] = round(self.share * len(texts))
        anatomy, members = view.anatomy, choice.members
        whole = not self.compact or not self.epochs or bool(members)
        if self.attention and self.epochs:
            loss, weights = normalising(view, choice.mask, self.attention, criterion)
            record["layer_weights"], whole = weights.tolist(), True
        made = [] if whole else cuttable(view, choice.mask)
        job = Job(
            Schedule(epochs, self.lr),
            view.seed,
            "healing",
            in_turn(anatomy, members, loss) if members else loss,
            [] if made else pieces(anatomy, choice.mask),
        )
        with ExitStack() as stack:
            stack.enter_context(cut(made, write_back=True))
            if self.attention and self.epochs:
                stack.enter_context(eager(anatomy))
            if self.freeze_embeddings:
                stack.enter_context(frozen_embeddings(anatomy))
            losses = train(anatomy.model, texts, job, view.runtime, view.progress)
        return record | {"losses": losses, "compact": bool(made), "lr": self.lr}

    def _mix(self, view: DefenderView) -> tuple[Encoded, Tensor, int]:
        """Return as many copies of the training texts as epochs, each with probes of its own.

        Which rows are probes, [row], and how many copies there are.
        """
        probes, clean = required(view.probes, "healing on probes"), view.train
        copies = math.ceil(self.epochs)
        made = [
            mixed(clean, probes, self.share, view.generator("mix", copy)) for copy in range(copies)
        ]
        texts = joined([encoded for encoded, _ in made])
        return texts, torch.cat([which for _, which in made]), copies


def cooler_of(healing: Healing) -> Healing | None:
    """Return what to try when a healing has lost too much accuracy; None: there is nothing.

    A ``cooler()`` is a healing's own to have; what it heals with records its ``lr``.
    """
    cooler: Healing | None = getattr(healing, "cooler", lambda: None)()
    return cooler


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


def consistent(
    clean: Encoded, turned: Tensor, weight: float, criterion: Criterion = on_labels
) -> Loss:
    """Return a loss plus the divergence of probes' predictions from their texts'.

    Args:
        clean: the original texts; row r of the training set is text r modulo their number.
        turned: which rows of the training set are probes, [row].
        weight: of the divergence's mean over the batch.
        criterion: the loss without it.

    """

    def loss(model: PreTrainedModel, batch: Batch) -> Tensor:
        found = forward(model, batch)
        total = criterion(found, batch)
        rows = turned[batch.index].nonzero().flatten()
        if len(rows):
            sources = (batch.index[rows] % len(clean)).tolist()
            with torch.no_grad():
                wanted = forward(model, clean.batch(sources).to(model.device)).log_softmax(-1)
            said = found[rows.to(found.device)].log_softmax(-1)
            apart = nn.functional.kl_div(said, wanted, reduction="sum", log_target=True)
            total = total + weight * apart / len(batch.labels)
        return total

    return loss


def in_turn(anatomy: Anatomy, members: Sequence[HeadMask], inner: Loss = cross_entropy) -> Loss:
    """Return the loss under one mask after the other, a batch each."""
    turn = cycle(members)

    def loss(model: PreTrainedModel, batch: Batch) -> Tensor:
        with masked(anatomy, next(turn)):
            return inner(model, batch)

    return loss
