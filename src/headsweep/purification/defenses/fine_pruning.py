"""Fine-Pruning: FFN neurons that are dormant on clean data go, then fine-tuning.

Source: Liu, Dolan-Gavitt, Garg 2018, *Fine-Pruning: Defending Against Backdooring Attacks on
Deep Neural Networks*, section 4. Theirs are the channels of a network's last convolution; here
the neurons of every FFN, in the same greedy loop as the heads. Matters since later work (arXiv
2603.13461) finds backdoors held redundantly in the MLPs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headsweep.errors import UserError
from headsweep.heal.fine_tune import FineTune
from headsweep.model.mask import Units
from headsweep.prune.strategies.dormant import Dormant
from headsweep.purification.defenses.recipe import Recipe


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
