"""Randomised ensemble: random masks that keep accuracy vote.

Source: Chapagain et al. 2025, randomised ensemble pruning: ``size`` random masks, each with
``per_layer`` heads of every layer pruned; those that hold min accuracy survive. Combined by

``majority`` (default)
    a head goes when more than half of the survivors prune it;
``union``
    a head goes when any survivor prunes it.

The combination is itself held to min accuracy: heads come back, fewest votes first. A rejected
member is left out; the paper does not say what happens then.
Cost: one validation pass a member, one for the combination, and one a head restored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt

from headsweep.errors import NothingPruned
from headsweep.model.mask import HeadMask
from headsweep.prune.choice import LOOSER, Choice, Needs, Step
from headsweep.prune.search import held
from headsweep.prune.view import DefenderView
from headsweep.settings import checked


@dataclass(frozen=True)
@checked
class Ensemble:
    """Let random masks that keep accuracy vote on every head.

    Attributes:
        size: random masks drawn.
        per_layer: heads pruned of every layer in each, at most all but one.
        combine: ``majority`` or ``union``.

    """

    name: ClassVar[str] = "ensemble"
    source: ClassVar[str] = "Chapagain et al. 2025"
    needs: ClassVar[Needs] = Needs()
    size: PositiveInt = 5
    per_layer: PositiveInt = 2
    combine: Literal["majority", "union"] = "majority"

    def choose(self, view: DefenderView) -> Choice:
        """Return the combination of the surviving masks."""
        drawn = draw(view, self.size, self.per_layer)
        steps, survivors = [], []
        with view.progress.task("random masks", len(drawn)) as tick:
            for mask in drawn:
                measured = view.decide(mask)
                kept = bool(measured.holds(view.need))
                steps.append(Step("member", mask.pruned, len(mask.pruned), measured, kept))
                survivors += [mask] if kept else []
                tick(1, f"{len(survivors)} hold")
        if not survivors:
            fewer = f"fewer heads a layer (--set per_layer={self.per_layer - 1}), "
            raise NothingPruned(
                f"none of {self.size} random masks holds min accuracy\n  fix: "
                f"{fewer * (self.per_layer > 1)}more masks (--set size={4 * self.size}), or "
                f"{LOOSER}"
            )
        votes = torch.tensor([[not keep for keep in mask.flat] for mask in survivors]).sum(0)
        record = {"drawn": len(drawn), "survivors": [mask.to_json() for mask in survivors]}
        needed = len(survivors) / 2 if self.combine == "majority" else 0
        order = [u for u in range(len(votes)) if votes[u] > needed]
        order.sort(key=lambda unit: (-int(votes[unit]), unit))
        gone, more = held(view, _without_empty_rows(view, order), "combine")
        return Choice(view.layout.mask(gone), -votes.float(), (*steps, *more), record)


def draw(view: DefenderView, size: int, per_layer: int) -> list[HeadMask]:
    """Return random masks, each with the same number of units pruned in every row."""
    generator = view.generator("ensemble")
    masks = []
    for _ in range(size):
        gone: list[int] = []
        for row, part in zip(view.layout.rows, view.layout.slices, strict=True):
            drawn = torch.randperm(row.units, generator=generator).tolist()
            order = [part.start + unit for unit in drawn]
            spared = _last_live(order, view)
            gone += [unit for unit in order if unit != spared][:per_layer]
        masks.append(view.layout.mask(gone))
    return masks


def _without_empty_rows(view: DefenderView, order: list[int]) -> list[int]:
    """Drop the last that does something of a row where all that do were voted out."""
    left = list(order)
    for part in view.layout.slices:
        row = [unit for unit in left if part.start <= unit < part.stop]
        if row and set(row) | view.gone >= set(range(part.start, part.stop)):
            left.remove(_last_live(row, view))
    return left


def _last_live(order: list[int], view: DefenderView) -> int:
    """Return the last unit that does something; of none that does, the last."""
    return next((unit for unit in reversed(order) if unit not in view.gone), order[-1])
