"""Fine-Pruning: FFN neurons that are dormant on clean data go, then fine-tuning.

Source: Liu, Dolan-Gavitt, Garg 2018, *Fine-Pruning: Defending Against Backdooring Attacks on
Deep Neural Networks*, section 4. Theirs are the channels of a network's last convolution; here
the neurons of every FFN, in the same greedy loop as the heads. Matters since later work (arXiv
2603.13461) finds backdoors held redundantly in the MLPs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headsweep.defenses.recipe import Recipe
from headsweep.errors import UserError
from headsweep.healing import FineTune
from headsweep.importance import dormancy
from headsweep.model.mask import Units
from headsweep.search import Choice, greedy
from headsweep.view import DefenderView


@dataclass(frozen=True)
class FinePruning:
    """Prune the FFN neurons that clean text activates least, then fine-tune.

    Attributes:
        epochs, lr: the fine-tuning.
        share: share of all neurons dropped per trial.

    """

    name: ClassVar[str] = "fine-pruning"
    source: ClassVar[str] = "Liu et al. 2018"
    epochs: float = 3
    lr: float = 2e-5
    share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(f"fine-pruning: a share of {self.share}", "it is between 0 and 1")

    def recipe(self) -> Recipe:
        """Return dormancy pruning and plain fine-tuning."""
        every_neuron = Units(heads=False, ffn=True, ffn_groups=0)
        return Recipe(Dormant(self.share), FineTune(self.epochs, self.lr), every_neuron)


@dataclass(frozen=True)
class Dormant:
    """Rank units by mean absolute activation on clean text, then prune greedily.

    A group that breaks the bound comes back in tenths, so the last trials are coarser than
    one neuron.
    """

    name: ClassVar[str] = "dormant"
    source: ClassVar[str] = "Liu et al. 2018"
    share: float = 0.05
    examples: int | None = 1000

    def choose(self, view: DefenderView) -> Choice:
        """Return the mask found by greedy pruning on activation."""
        scores = dormancy(view, self.examples)
        step = max(1, round(self.share * view.layout.units))
        return greedy(view, scores, step, restore=max(1, step // 10))
