"""Gradient with structured L1/L2: fine-tune heads towards zero as whole groups, then rank.

Source: Chapagain et al. 2025, gradient-based pruning with structured L1/L2 regularisation. The
structured term is the group lasso (Yuan & Lin 2006): sum over groups of sqrt(size) * norm of
the group, a group being a head's Q, K, V and O weights; with grouped queries a whole key/value
group, so that no weight counts twice. The L2 term is AdamW's decoupled decay.

After each optimiser step every group's norm shrinks by rate * weight * sqrt(size), to exactly zero
where that is more than it has (Parikh & Boyd 2014, section 6.5.4). As a term of the loss it never
makes a group exactly zero, and Adam, which divides a gradient by its own size, lets it drown out
the cross-entropy (docs/log.md shows both).

The weight is set so that over the whole run a group of average norm that nothing resists loses
``strength`` of its norm: weights mean little from one model or schedule to the next. The default
stays below what makes heads vanish, since in a budget of an epoch the copy's accuracy went with
them (docs/log.md), and scores of a copy that knows nothing mean nothing.

The fine-tuned copy is a scratch: only its scores are kept. The search measures the suspect
itself, whose accuracy is the one that is bounded. Deviation: the paper does not say on which
of the two it measures.
Cost: ``epochs`` of training on ``examples``, one forward-backward pass, then as the greedy loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from headsweep.errors import UserError, lookup
from headsweep.model.anatomy import Anatomy
from headsweep.prune.choice import Choice, Needs
from headsweep.prune.importance import gate_importance, sample
from headsweep.prune.search import SEARCHES
from headsweep.prune.view import DefenderView
from headsweep.settings import checked
from headsweep.task.training import Job, Schedule, train


@dataclass(frozen=True)
@checked
class Sparsify:
    """Fine-tune with a group lasso over heads, then rank by gate gradient and prune greedily.

    Attributes:
        strength: share of the average norm that an unresisting group loses in all.
        decay: AdamW's weight decay, the L2 term.
        epochs: fine-tuning of the scratch copy.
        lr: its learning rate.
        step: heads dropped per trial; None: 10 or a seventh of all, whichever is less.
        examples: training examples used at most.
        search: ``bisect``, or ``step``, the loop of the papers (``search``).

    """

    name: ClassVar[str] = "sparsify"
    source: ClassVar[str] = "Chapagain et al. 2025; Yuan & Lin 2006"
    needs: ClassVar[Needs] = Needs(weights=True)
    strength: float = 0.5
    decay: float = 0.01
    epochs: float = 1
    lr: float = 3e-4
    step: PositiveInt | None = None
    examples: PositiveInt | None = 2000
    search: Literal["bisect", "step"] = "bisect"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength + self.decay) and min(self.strength, self.decay) >= 0):
            raise UserError("sparsify: strength and decay are finite and not negative")
        Schedule(self.epochs, self.lr, self.decay)

    def choose(self, view: DefenderView) -> Choice:
        """Return the mask found by greedy pruning on the scores of the sparse copy."""
        with view.scratch():
            record = self.fine_tune(view)
            scores = gate_importance(view, self.examples)
        choice = lookup(self.search, SEARCHES, "search")(view, scores, self.step)
        return Choice(choice.mask, scores, choice.steps, record)

    def fine_tune(self, view: DefenderView) -> dict[str, Any]:
        """Fine-tune the view's model in place; return the norms of its groups before and after."""
        anatomy, encoded = view.anatomy, sample(view, self.examples)
        found = groups(anatomy)
        before = _norms(found)
        weight = self._weight(found, before, -(-len(encoded) // view.runtime.batch_size))
        job = Job(
            Schedule(self.epochs, self.lr, self.decay),
            view.subseed("sparsify"),
            "sparsifying",
            after_step=_shrinking(found, weight),
        )
        train(anatomy.model, encoded, job, view.runtime, view.progress)
        after = _norms(found)
        return {
            "groups": len(found),
            "weight": weight,
            "exactly_zero": int((after == 0).sum()),
            "below_a_tenth": int((after < 0.1 * before).sum()),
            "norms_before": before.tolist(),
            "norms_after": after.tolist(),
        }

    def _weight(self, found: list[list[Tensor]], norms: Tensor, steps_an_epoch: int) -> float:
        """Return the weight at which an average group loses ``strength`` of its norm in all."""
        steps = max(1, round(self.epochs * steps_an_epoch))  # as many as the training makes
        rates = self.lr * (steps + 1) / 2  # linear decay from lr to lr / steps
        sizes = torch.tensor([_size(group) for group in found]).sqrt()
        return self.strength * float(norms.mean() / sizes.mean()) / max(rates, 1e-12)


def groups(anatomy: Anatomy) -> list[list[Tensor]]:
    """Return the weights of every group: a unit's, or those of a whole key/value group."""
    return [
        list(_members(site, start))
        for site in anatomy.sites
        for start in range(0, site.row.units, site.row.group)
    ]


def _members(site: Any, start: int) -> Iterator[Tensor]:
    for block in site.blocks:
        if block.group > 1 or site.row.group == 1:
            yield block.of(start // block.group)
        else:
            for unit in range(start, start + site.row.group):
                yield block.of(unit)


def norm(group: list[Tensor]) -> Tensor:
    """Return the Euclidean norm of a group's weights."""
    return torch.stack([piece.square().sum() for piece in group]).sum().sqrt()


def _norms(found: list[list[Tensor]]) -> Tensor:
    return torch.stack([norm(group).detach().cpu() for group in found])


def _size(group: list[Tensor]) -> int:
    return sum(piece.numel() for piece in group)


def _shrinking(found: list[list[Tensor]], weight: float) -> Any:
    def shrink(rate: float) -> None:
        for group in found:
            length = norm(group)
            less = rate * weight * _size(group) ** 0.5
            factor = (1 - less / length.clamp_min(1e-12)).clamp_min(0)
            for piece in group:
                piece.mul_(factor)

    return shrink
