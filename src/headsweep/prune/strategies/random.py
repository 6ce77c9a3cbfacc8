"""Random: the control without which no claim about a score stands.

With ``count``, that many units drawn at random, whatever accuracy does: the control at a
matched head count. Without, a random order in the same greedy loop as the rankings.
Cost: with ``count`` none; else one validation pass a step and one a head restored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt

from headsweep.errors import lookup
from headsweep.prune.choice import Choice, Needs
from headsweep.prune.search import SEARCHES, candidates
from headsweep.prune.view import DefenderView
from headsweep.settings import checked


@dataclass(frozen=True)
@checked
class Random:
    """Prune heads in random order (the control).

    Attributes:
        count: heads to prune, not held to min accuracy; None: greedily, held to it.
        step: heads dropped per trial of the greedy loop; None: its default.
        search: ``bisect``, or ``step``, the loop of the papers (``search``).

    """

    name: ClassVar[str] = "random"
    source: ClassVar[str] = "control"
    count: int | None = None
    step: PositiveInt | None = None
    search: Literal["bisect", "step"] = "bisect"

    @property
    def needs(self) -> Needs:
        """No bound where the number of heads is given."""
        return Needs(bound=self.count is None, searches=1, count=self.count)

    def choose(self, view: DefenderView) -> Choice:
        """Return a random mask; raises UserError where there are fewer units than asked for."""
        self.needs.check(view.layout)
        scores = torch.rand(view.layout.units, generator=view.generator("random"))
        if self.count is None:
            return lookup(self.search, SEARCHES, "search")(view, scores, self.step)
        order = candidates(scores, view)
        return Choice(view.layout.mask(order[: self.count]), scores, bounded=False)
