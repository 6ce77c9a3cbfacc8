"""Probe-guided pruning: the heads that carry the flips of probes go first.

Ranking by how little clean accuracy needs a head removes a backdoor by accident only: a head that
carries it often matters to clean texts too, and goes last. Nobody knows the trigger, but everybody
can make probes, and where a generic transformation flips answers into one label, the gradient says
which heads do it. The score of a unit is

    z(importance) - weight * sure * z(contribution)

with ``importance`` as the strategy ``gradient`` has it and ``contribution`` the mean over families
of ``flips.flip_contribution`` into the label that most families flip into, each weighted by
how much more often it flips into this label than into the others (``combined``). ``sure`` is the
largest such excess of a family over ``FULL``, at most 1: what hardly flips says hardly anything
of heads, and costs accuracy all the same. Where nothing flips one way, only importance counts. Low
goes first, under the same min accuracy and in the same greedy loop.

The default weight is the best of 0.7, 1 and 2 on the *dev* parts of two suspects: more takes the
first heads of the flips at once, but costs so much accuracy that few go (docs/log.md).

Source: own. What it cannot do: see a backdoor that no probe family touches.
Cost: as ``gradient``, and for each family a forward and a backward pass over ``probed`` probes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from headsweep.errors import UserError
from headsweep.prune.choice import Choice, Needs
from headsweep.prune.flips import Flips, flip_contribution
from headsweep.prune.importance import gate_importance, standardised
from headsweep.prune.search import greedy
from headsweep.prune.view import DefenderView
from headsweep.settings import checked

BASE = 0.05  # weight of a family beside its excess flips
FULL = 0.3  # excess flips of a family from which the weight counts whole: a backdoor that took


@dataclass(frozen=True)
@checked
class ProbeGuided:
    """Rank heads by what they add to the flips of probes, then prune greedily.

    Attributes:
        weight: how much the flips count against clean importance, both in standard deviations.
        step: heads dropped per trial; None: 10 or a seventh of all, whichever is less.
        examples: training examples scored for clean importance at most.
        probed: pairs of text and probe a family at most.

    """

    name: ClassVar[str] = "probe-guided"
    source: ClassVar[str] = "of this project; gate gradients of Michel et al. 2019"
    needs: ClassVar[Needs] = Needs(probes=True, searches=1)
    weight: float = 0.7
    step: PositiveInt | None = None
    examples: PositiveInt | None = 2000
    probed: PositiveInt | None = 200

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise UserError(f"probe-guided: a weight of {self.weight}", "give 0 or more")
        if self.probed is not None and self.probed < 2:
            raise UserError(f"probe-guided: {self.probed} probes a family", "give 2 or more")

    def choose(self, view: DefenderView) -> Choice:
        """Return the mask found by greedy pruning on the traded score."""
        scores, record = guided_scores(view, self.weight, self.examples, self.probed)
        choice = greedy(view, scores, self.step)
        return replace(choice, record=record)


def guided_scores(
    view: DefenderView, weight: float, examples: int | None, probed: int | None
) -> tuple[Tensor, dict[str, Any]]:
    """Return the traded score, [unit], and what it was made of.

    Raises:
        UserError: the view has no probes.

    """
    flips = flip_contribution(view, probed)
    contribution, shares = combined(flips)
    importance = standardised(gate_importance(view, examples))
    weight *= sure(flips, shares)
    record = {
        "weight": weight,
        "flips": [
            {"family": one.family, "label": one.label, "rate": one.flips, "weight": share}
            for one, share in zip(flips, shares, strict=True)
        ],
        "contribution": contribution.tolist(),
    }
    return importance - weight * contribution, record


def sure(flips: list[Flips], shares: list[float]) -> float:
    """Return how far the probes are to be trusted, 0 to 1: by the family that flips most.

    Args:
        flips: of every family and label.
        shares: their weights, by ``combined``; 0: not into the target.

    """
    most = max((one.excess for one, share in zip(flips, shares, strict=True) if share), default=0.0)
    return min(1.0, most / FULL)


def combined(flips: list[Flips]) -> tuple[Tensor, list[float]]:
    """Return the weighted mean of the contributions, standardised, and the weights.

    A backdoor has one target, and touches more than one family: the label counts into which
    most families flip (the sum over families of the root of their excess, so that one family
    that flips for what it says does not decide). Families that do not flip count too, with
    ``BASE``: their margins move before their answers do. Nothing flips: all is zero.
    """
    evidence: dict[int, float] = {}
    for one in flips:
        evidence[one.label] = evidence.get(one.label, 0.0) + math.sqrt(one.excess)
    target = max(evidence, key=lambda label: (evidence[label], -label))
    if evidence[target] == 0:
        return torch.zeros_like(flips[0].contribution), [0.0] * len(flips)
    raw = [(one.excess + BASE) * (one.label == target) for one in flips]
    shares = [one / sum(raw) for one in raw]
    parts = [share * one.contribution for share, one in zip(shares, flips, strict=True)]
    return standardised(torch.stack(parts).sum(0)), shares
