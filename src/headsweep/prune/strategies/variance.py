"""Variance: the head ranking of PURE, with the greedy loop.

Source: Zhao, Xu, Yuan 2024 (*PURE*), section 4.1: heads whose attention from the classifying
token hardly varies over tokens are taken for idle on clean text and go first.
Cost: one pass with attention weights over ``examples`` training examples, then one validation
pass a step and one a head restored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import PositiveInt

from headsweep.errors import lookup
from headsweep.prune.choice import Choice, Needs
from headsweep.prune.importance import attention_variance
from headsweep.prune.search import SEARCHES
from headsweep.prune.view import DefenderView
from headsweep.settings import checked


@dataclass(frozen=True)
@checked
class Variance:
    """Rank heads by the variance of their classifying attention, then prune greedily.

    Attributes:
        step: heads dropped per trial; None: 10 or a seventh of all, whichever is less.
        examples: training examples scored at most.
        search: ``bisect``, or ``step``, the loop of the papers (``search``).

    """

    name: ClassVar[str] = "variance"
    source: ClassVar[str] = "Zhao et al. 2024 (PURE), first step"
    needs: ClassVar[Needs] = Needs(searches=1, heads=True)
    step: PositiveInt | None = None
    examples: PositiveInt | None = 2000
    search: Literal["bisect", "step"] = "bisect"

    def choose(self, view: DefenderView) -> Choice:
        """Return the mask found by pruning in the order of attention variance."""
        search = lookup(self.search, SEARCHES, "search")
        return search(view, attention_variance(view, self.examples), self.step)
