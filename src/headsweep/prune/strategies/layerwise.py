"""Layer-wise variance: each layer gives up a share of its heads that grows with depth.

Source: Chapagain et al. 2025, layer-wise variance pruning: in layer l the int(H * r_l) heads
of lowest classifying-attention variance go, r_l linear from 0.2 in the first to 0.8 in the
last layer. Padding is left out of the variance; a decoder's last token is its classifying one.
The quota can miss min accuracy; then heads come back one at a time, highest variance (scaled
per layer) first, until it holds.
Cost: one pass with attention weights over ``examples`` training examples, one validation pass,
and one a head restored.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from pydantic import PositiveInt
from torch import Tensor

from headsweep.errors import UserError
from headsweep.model.mask import Layout
from headsweep.prune.choice import Choice, Needs
from headsweep.prune.importance import attention_variance, normalised
from headsweep.prune.search import ascending, held
from headsweep.prune.view import DefenderView
from headsweep.settings import checked


@dataclass(frozen=True)
@checked
class Layerwise:
    """Prune a share of each layer's least varying heads, growing with depth.

    Attributes:
        first: share pruned in the first layer.
        last: share pruned in the last layer.
        examples: training examples scored at most.

    """

    name: ClassVar[str] = "layerwise"
    source: ClassVar[str] = "Chapagain et al. 2025"
    needs: ClassVar[Needs] = Needs(heads=True)
    first: float = 0.2
    last: float = 0.8
    examples: PositiveInt | None = 2000

    def __post_init__(self) -> None:
        if not (0 <= self.first < 1 and 0 <= self.last < 1):
            raise UserError("layerwise: first and last are shares in [0, 1)")

    def choose(self, view: DefenderView) -> Choice:
        """Return the quota's mask, backed off to min accuracy."""
        scores = attention_variance(view, self.examples)
        quota = by_quota(scores, view.layout, self.first, self.last, view.gone)
        scaled = normalised(scores, view.layout)
        order = sorted(quota, key=lambda unit: (unit not in view.gone, float(scaled[unit]), unit))
        gone, steps = held(view, order)
        return Choice(view.layout.mask(gone), scores, tuple(steps), {"quota": len(quota)})


def by_quota(
    scores: Tensor,
    layout: Layout,
    first: float,
    last: float,
    gone: Collection[int] = (),
) -> list[int]:
    """Return the units that the quota takes: the lowest of each row, those at zero before all."""
    taken = []
    depth = max(len(layout.rows) - 1, 1)
    for index, (row, part) in enumerate(zip(layout.rows, layout.slices, strict=True)):
        count = int(row.units * (first + (last - first) * index / depth) + 1e-9)
        ranked = [part.start + unit for unit in ascending(scores[part])]
        taken += sorted(ranked, key=lambda unit: unit not in gone)[:count]
    return taken
