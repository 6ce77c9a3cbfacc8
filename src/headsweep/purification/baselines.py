"""Baselines and controls: methods that a purification is compared with.

FT and FTH as in Zhao et al. 2024 (PURE) and Chapagain et al. 2025, who say only that FTH's learning
rate is higher (1e-4 is our reading). MEFT, maximum-entropy fine-tuning (Liu et al. 2023, as PURE
uses it). PURE itself: Zhao et al. 2024, section 4.1 (heads by attention variance) and 4.2 (the
attention penalty, strength 0.15). Fine-Pruning: Liu, Dolan-Gavitt, Garg 2018, section 4, on the
neurons of every FFN; it matters since later work (arXiv 2603.13461) finds backdoors held
redundantly in the MLPs. CROW: Min et al. 2024, made for generators. Random heads at a matched
count, and nothing at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pydantic import PositiveInt

from headsweep.errors import UserError
from headsweep.heal.entropy import EntropyFirst
from headsweep.heal.fine_tune import FineTune
from headsweep.heal.layer_consistency import LayerConsistency
from headsweep.model.mask import Units
from headsweep.prune.strategies.dormant import Dormant
from headsweep.prune.strategies.nothing import Nothing
from headsweep.prune.strategies.random import Random
from headsweep.prune.strategies.variance import Variance
from headsweep.purification.bound import Bound
from headsweep.purification.method import Method
from headsweep.settings import checked


class Baseline(Protocol):
    """A baseline. Its fields are its whole configuration."""

    name: ClassVar[str]
    source: ClassVar[str]

    def method(self) -> Method:
        """Return what is done."""


@dataclass(frozen=True)
@checked
class FT:
    """Fine-tune the suspect on clean data.

    Attributes:
        epochs, lr: of the fine-tuning.
        attention: weight of PURE's attention penalty; 0, as in the papers:
            none. With it, the control that tells what the penalty does without any pruning.

    """

    name: ClassVar[str] = "ft"
    source: ClassVar[str] = "Chapagain et al. 2025, baseline"
    epochs: float = 3
    lr: float = 2e-5
    attention: float = 0.0

    def method(self) -> Method:
        """Return fine-tuning; raises UserError on values that make no sense."""
        return Method(
            Nothing(), FineTune(self.epochs, self.lr, attention=self.attention), bound=None
        )


@dataclass(frozen=True)
@checked
class FTH:
    """Fine-tune the suspect on clean data at a higher learning rate."""

    name: ClassVar[str] = "fth"
    source: ClassVar[str] = "Chapagain et al. 2025, baseline"
    epochs: float = 3
    lr: float = 1e-4

    def method(self) -> Method:
        """Return plain fine-tuning."""
        return Method(Nothing(), FineTune(self.epochs, self.lr), bound=None)


@dataclass(frozen=True)
@checked
class MEFT:
    """Maximise the entropy of predictions for an epoch, then fine-tune."""

    name: ClassVar[str] = "meft"
    source: ClassVar[str] = "Liu et al. 2023, as in Zhao et al. 2024"
    entropy_epochs: float = 1
    epochs: float = 3
    lr: float = 2e-5

    def method(self) -> Method:
        """Return the two phases."""
        return Method(
            Nothing(), EntropyFirst(self.entropy_epochs, self.epochs, self.lr), bound=None
        )


@dataclass(frozen=True)
@checked
class Pure:
    """Prune by attention variance, then fine-tune with the attention penalty.

    Attributes:
        strength: weight of the penalty (lambda in the paper).
        epochs, lr: the fine-tuning.
        step: heads dropped per trial.

    """

    name: ClassVar[str] = "pure"
    source: ClassVar[str] = "Zhao et al. 2024"
    strength: float = 0.15
    epochs: float = 3
    lr: float = 2e-5
    step: PositiveInt | None = None

    def method(self) -> Method:
        """Return both steps."""
        ranking = Variance(self.step, search="step")  # as in the paper
        return Method(ranking, FineTune(self.epochs, self.lr, attention=self.strength))


@dataclass(frozen=True)
@checked
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

    def method(self) -> Method:
        """Return dormancy pruning and plain fine-tuning."""
        every_neuron = Units(heads=False, ffn=True, ffn_groups=0)
        return Method(Dormant(self.share), FineTune(self.epochs, self.lr), every_neuron)


@dataclass(frozen=True)
@checked
class Crow:
    """Fine-tune so that hidden states turn little from layer to layer, trigger or not.

    Attributes:
        epochs, lr: the fine-tuning; the paper trains LoRA, here it is the whole weights.
        alpha: weight of the consistency; the paper has 11 against refusals.
        epsilon: how far embeddings are moved to stand for a trigger.

    """

    name: ClassVar[str] = "crow"
    source: ClassVar[str] = "Min et al. 2024"
    epochs: float = 3
    lr: float = 2e-5
    alpha: float = 5.5
    epsilon: float = 0.1

    def method(self) -> Method:
        """Return nothing pruned, and the fine-tuning."""
        healing = LayerConsistency(self.epochs, self.lr, self.alpha, self.epsilon)
        return Method(Nothing(), healing, bound=None)


@dataclass(frozen=True)
@checked
class RandomHeads:
    """Prune as many heads as the method under test, drawn at random, then fine-tune.

    Attributes:
        count: heads to prune; None: greedily, within min accuracy.
        epochs, lr: the fine-tuning.

    """

    name: ClassVar[str] = "random"
    source: ClassVar[str] = "control"
    count: int | None = None
    epochs: float = 2
    lr: float = 3e-5

    def method(self) -> Method:
        """Return a random mask and plain fine-tuning."""
        return Method(
            Random(self.count),
            FineTune(self.epochs, self.lr),
            bound=Bound() if self.count is None else None,
        )


@dataclass(frozen=True)
@checked
class NothingDone:
    """Leave the suspect as it is."""

    name: ClassVar[str] = "nothing"
    source: ClassVar[str] = "control"

    def method(self) -> Method:
        """Return no pruning and no fine-tuning."""
        return Method(Nothing(), FineTune(epochs=0), bound=None)


DEFENSES: dict[str, Any] = {
    baseline.name: baseline
    for baseline in (FT, FTH, MEFT, Pure, FinePruning, Crow, RandomHeads, NothingDone)
}
"""Baseline and control classes by name."""
