"""Neurons that are dormant on clean text go first.

Source: Liu, Dolan-Gavitt, Garg 2018, *Fine-Pruning: Defending Against Backdooring Attacks on
Deep Neural Networks*, section 4. Theirs are the channels of a network's last convolution; here
the neurons of every FFN, in the same greedy loop as the heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import PositiveInt

from headsweep.errors import UserError
from headsweep.prune.choice import Choice, Needs
from headsweep.prune.importance import dormancy
from headsweep.prune.search import greedy
from headsweep.prune.view import DefenderView
from headsweep.settings import checked


@dataclass(frozen=True)
@checked
class Dormant:
    """Rank units by mean absolute activation on clean text, then prune greedily.

    A group that breaks the bound comes back in tenths, so the last trials are coarser than
    one neuron.
    """

    name: ClassVar[str] = "dormant"
    source: ClassVar[str] = "Liu et al. 2018"
    needs: ClassVar[Needs] = Needs()
    share: float = 0.05
    examples: PositiveInt | None = 1000

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(f"dormant: a share of {self.share}", "it is between 0 and 1")

    def choose(self, view: DefenderView) -> Choice:
        """Return the mask found by greedy pruning on activation."""
        scores = dormancy(view, self.examples)
        step = max(1, round(self.share * view.layout.units))
        return greedy(view, scores, step, restore=max(1, step // 10))
