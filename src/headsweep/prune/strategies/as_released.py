"""The strategies as the scripts of Chapagain et al. 2025 run them. For replication only.

Each differs from the paper's description; what differs is in the class. Facts about the scripts
are from reading them; the code here is our own. The faithful forms are the ones to use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor
from transformers import PreTrainedModel

from headsweep.errors import NothingPruned, UserError
from headsweep.prune.choice import LOOSER, Choice, Needs, Step
from headsweep.prune.importance import attention_variance, key_gradient_importance, sample
from headsweep.prune.search import ascending, candidates, greedy
from headsweep.prune.strategies.ensemble import draw
from headsweep.prune.strategies.layerwise import by_quota
from headsweep.prune.view import DefenderView
from headsweep.settings import checked
from headsweep.task.training import Job, Schedule, mean_loss, train
from headsweep.texts.encoded import Batch

SOURCE = "scripts of Chapagain et al. 2025; replication only"


@dataclass(frozen=True)
@checked
class GradientAsReleased:
    """As released: every head of a layer gets the same score, so order is by layer and index.

    The norm of the whole layer's key gradient, divided by the layer's sum over its heads, is
    1/H for every head of every layer.
    """

    name: ClassVar[str] = "gradient-as-released"
    source: ClassVar[str] = SOURCE
    needs: ClassVar[Needs] = Needs()
    step: PositiveInt | None = None

    def choose(self, view: DefenderView) -> Choice:
        """Return the mask of the greedy loop in the order of layer and index."""
        scores = torch.cat([torch.full((row.units,), 1 / row.units) for row in view.layout.rows])
        return greedy(view, scores, self.step)


@dataclass(frozen=True)
@checked
class LayerwiseAsReleased:
    """As released: padding counts as columns of zero attention; accuracy is never looked at."""

    name: ClassVar[str] = "layerwise-as-released"
    source: ClassVar[str] = SOURCE
    needs: ClassVar[Needs] = Needs(bound=False, heads=True)
    examples: PositiveInt | None = 2000

    def choose(self, view: DefenderView) -> Choice:
        """Return the quota's mask, whatever its accuracy."""
        scores = attention_variance(view, self.examples, columns=view.runtime.max_length)
        gone = by_quota(scores, view.layout, 0.2, 0.8, view.gone)
        return Choice(view.layout.mask(gone), scores, bounded=False)


@dataclass(frozen=True)
@checked
class SparsifyAsReleased:
    """As released: element-wise L1 and unsquared L2 norm on every attention weight.

    Weights of 1e-4 each, LayerNorms of the attention blocks included; no group of weights is
    driven to zero as a whole. Ranked then by the key gradient of each head.
    """

    name: ClassVar[str] = "sparsify-as-released"
    source: ClassVar[str] = SOURCE
    needs: ClassVar[Needs] = Needs(weights=True, heads=True)
    epochs: float = 1
    lr: float = 2e-5
    step: PositiveInt | None = None
    examples: PositiveInt | None = 2000

    def __post_init__(self) -> None:
        Schedule(self.epochs, self.lr)

    def choose(self, view: DefenderView) -> Choice:
        """Return the mask found by greedy pruning on the scores of the regularised copy."""
        with view.scratch() as anatomy:
            weights = [
                p
                for n, p in anatomy.model.named_parameters()
                if "attention" in n.lower() or "attn" in n.lower()
            ]

            def loss(model: PreTrainedModel, batch: Batch) -> Tensor:
                l1 = torch.stack([p.abs().sum() for p in weights]).sum()
                l2 = torch.stack([p.norm() for p in weights]).sum()
                return mean_loss(model, batch) + 1e-4 * l1 + 1e-4 * l2

            job = Job(Schedule(self.epochs, self.lr), view.subseed(self.name), "regularising", loss)
            train(anatomy.model, sample(view, self.examples), job, view.runtime, view.progress)
            scores = key_gradient_importance(view, self.examples)
        return greedy(view, scores, self.step)


@dataclass(frozen=True)
@checked
class EnsembleAsReleased:
    """As released: the union of the masks, never checked; one rejected member is a failure."""

    name: ClassVar[str] = "ensemble-as-released"
    source: ClassVar[str] = SOURCE
    needs: ClassVar[Needs] = Needs(bound=False)
    size: PositiveInt = 5
    per_layer: PositiveInt = 2

    def choose(self, view: DefenderView) -> Choice:
        """Return the union, or fail as the script does."""
        masks = draw(view, self.size, self.per_layer)
        if not all(view.holds(mask) for mask in masks):
            raise NothingPruned(
                "ensemble-as-released: a member misses min accuracy, which ends it\n"
                f"  fix: {LOOSER}, or take --strategy ensemble, which drops such members"
            )
        gone = {unit for mask in masks for unit in mask.pruned}
        for part in view.layout.slices:  # the script can empty a layer; we keep its first head
            row = range(part.start, part.stop)
            if view.gone.union(gone).issuperset(row):
                gone.discard(next((unit for unit in row if unit not in view.gone), part.start))
        return Choice(view.layout.mask(gone), bounded=False)


@dataclass(frozen=True)
@checked
class ReinforceAsReleased:
    """As released: epsilon-greedy over the fixed variance order; nothing is learnt.

    Each step takes the next ``step`` heads of the order, or with probability ``epsilon`` random
    ones; no reward is used; it ends on the step that breaks min accuracy, which stays pruned.
    """

    name: ClassVar[str] = "reinforce-as-released"
    source: ClassVar[str] = SOURCE
    needs: ClassVar[Needs] = Needs(bound=False, heads=True)
    epsilon: float = 0.1
    step: PositiveInt = 10
    examples: PositiveInt | None = 2000

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise UserError("reinforce-as-released: epsilon is in 0 to 1")

    def choose(self, view: DefenderView) -> Choice:
        """Return the mask at the violating step."""
        scores = attention_variance(view, self.examples)
        free = {*candidates(scores, view)}
        left = [unit for unit in ascending(scores) if unit in free]
        generator = view.generator(self.name)
        gone: list[int] = []
        steps: list[Step] = []
        while left:
            group = []
            for _ in range(min(self.step, len(left))):
                explore = float(torch.rand(1, generator=generator)) < self.epsilon
                place = int(torch.randint(len(left), (1,), generator=generator)) if explore else 0
                group.append(left.pop(place))
            gone += group
            measured = view.decide(view.layout.mask(gone))
            kept = bool(measured.holds(view.need))
            steps.append(Step("prune", tuple(group), len(gone), measured, kept))
            if not kept:
                break
        return Choice(view.layout.mask(gone), scores, tuple(steps), bounded=False)


@dataclass(frozen=True)
@checked
class BayesianAsReleased:
    """As released: dropout is off in evaluation mode, so the score is PURE's plain variance."""

    name: ClassVar[str] = "bayesian-as-released"
    source: ClassVar[str] = SOURCE
    needs: ClassVar[Needs] = Needs(heads=True)
    step: PositiveInt | None = None
    examples: PositiveInt | None = 2000

    def choose(self, view: DefenderView) -> Choice:
        """Return the mask found by greedy pruning on attention variance."""
        return greedy(view, attention_variance(view, self.examples), self.step)
