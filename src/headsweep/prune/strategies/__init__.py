"""The strategies: one line of the table each."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from headsweep.prune.choice import Choice, Needs
from headsweep.prune.strategies.as_released import (
    BayesianAsReleased,
    EnsembleAsReleased,
    GradientAsReleased,
    LayerwiseAsReleased,
    ReinforceAsReleased,
    SparsifyAsReleased,
)
from headsweep.prune.strategies.bayesian import Bayesian
from headsweep.prune.strategies.dormant import Dormant
from headsweep.prune.strategies.ensemble import Ensemble
from headsweep.prune.strategies.gradient import Gradient
from headsweep.prune.strategies.layerwise import Layerwise
from headsweep.prune.strategies.nothing import Nothing
from headsweep.prune.strategies.probe_guided import ProbeGuided
from headsweep.prune.strategies.random import Random
from headsweep.prune.strategies.reinforce import Reinforce
from headsweep.prune.strategies.sparsify import Sparsify
from headsweep.prune.strategies.variance import Variance
from headsweep.prune.view import DefenderView


class Strategy(Protocol):
    """Chooses the heads to prune. Its fields are its whole configuration."""

    name: ClassVar[str]
    source: ClassVar[str]

    @property
    def needs(self) -> Needs:
        """What it asks of a run."""

    def choose(self, view: DefenderView) -> Choice:
        """Return the choice; the view's model is left as it was."""


STRATEGIES: dict[str, Any] = {
    method.name: method
    for method in (
        Gradient,
        Layerwise,
        Sparsify,
        Ensemble,
        Reinforce,
        Bayesian,
        ProbeGuided,
        Variance,
        Dormant,
        Nothing,
        Random,
        GradientAsReleased,
        LayerwiseAsReleased,
        SparsifyAsReleased,
        EnsembleAsReleased,
        ReinforceAsReleased,
        BayesianAsReleased,
    )
}
"""Strategy classes by name: the six of the paper, one with probes, PURE's and Fine-Pruning's
rankings, the control, replications.
"""
